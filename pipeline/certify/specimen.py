"""What is certified: one model on one device, and the pictures that several checks look at, each drawn once.

B images, T tokens, C channels.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from unittest.mock import patch

import torch
from torch import Tensor

from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.prompt_files import find_sets
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.generation import Generated, generate
from svdstory.pipeline.models.device import choose_device, fitting
from svdstory.pipeline.models.load import Model, load_model
from svdstory.pipeline.models.spec import ModelSpec
from svdstory.pipeline.spectral import bank

PLAIN, CONSISTORY, FILTERED = "sdxl", "consistory", ("svd-log2", "svd-clip-2")
TRUNCATED = "svd-fraction-0.05-no-injection"  # in one pass; compared, not shown
IMAGES = 4  # two anchors and two that see them: less would leave nothing to cut into micro-batches
STEPS = 12  # of more than nine, ConsiStory has a step of each kind
SEED, GUIDANCE = 0, 5.0
SETS = {"package": "world-gift-box"}  # by the model's source; of all others:
SET = "red-fox"
SMALLEST = 16  # the small models' matrices are all smaller than what a study filters fast


@dataclass(frozen=True)
class Taken:
    """One matrix on its way through a filter: of one layer's first anchor, the conditional half. Both (T, C), on the CPU."""

    method: str
    layer: int
    of: str  # k or v
    before: Tensor
    after: Tensor


@dataclass(frozen=True)
class Drawn:
    """A method's pictures, what its filters did in the last step, seconds, and the device's peak in bytes (CUDA's)."""

    made: Generated
    taken: list[Taken]
    seconds: float
    peak: int | None
    micro_batch: int | None


@dataclass
class Specimen:
    """A model to be certified. signal_s: how long before its end Slurm warns a job (`signal_seconds` of a site)."""

    spec: ModelSpec
    device: str | None = None
    signal_s: float = 120.0
    steps: int = STEPS
    _drawn: dict[tuple[str, int | None], Drawn] = field(default_factory=dict, init=False)

    @cached_property
    def model(self) -> Model:
        """Loaded when the first check needs it."""
        return load_model(self.spec, self.device)

    @cached_property
    def place(self) -> torch.device:
        return choose_device(self.device)

    @property
    def is_small(self) -> bool:
        """Whether it is one of those that ship, whose numbers are known."""
        return self.spec.source in ("built", "package")

    @cached_property
    def prompts(self) -> PromptSet:
        (found,) = find_sets(SETS.get(self.spec.source, SET))
        return found.model_copy(update={"settings": found.settings[:IMAGES]})

    @property
    def rounding(self) -> float:
        """What other orders of summation may change, relative to the latents' norm.

        Seen on a CPU over 10 steps (pipeline/certify/README.md): 2e-6 in float32, 2e-3 to 2e-2 in float16, 2e-2 to 0.1
        in bfloat16. GPUs multiply float32 in convolutions with float16's 10 bits.
        """
        by_dtype = {"float16": 0.1, "bfloat16": 0.25, "float32": 1e-4 if self.place.type == "cpu" else 0.1}
        return by_dtype[self.spec.dtype]

    def draw(self, method: str, micro_batch: int | None = None) -> Drawn:
        """The set, drawn by a method, with as many images at once as the card holds, or `micro_batch`."""
        key = method, micro_batch
        if key not in self._drawn:
            self._drawn[key] = self._draw(method, micro_batch)
        return self._drawn[key]

    def _draw(self, name: str, micro_batch: int | None) -> Drawn:
        model, method = self.model, named(name)
        if micro_batch is None:
            micro_batch = fitting(self.spec, method, IMAGES, self.spec.size, model.device)
        cuda = model.device.type == "cuda"
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(model.device)
        began = time.monotonic()
        smallest = SMALLEST if self.is_small else bank.SMALLEST
        with watched_filters(name, self.steps - 1) as taken, patch.object(bank, "SMALLEST", smallest):
            settings = dict(seed=SEED, steps=self.steps, guidance=GUIDANCE, micro_batch=micro_batch)
            made = generate(model, self.prompts, method, **settings)
        peak = torch.cuda.max_memory_allocated(model.device) if cuda else None
        return Drawn(made, list(taken.values()), time.monotonic() - began, peak, micro_batch)


@contextmanager
def watched_filters(method: str, step: int) -> Iterator[dict[tuple, Taken]]:
    """What the filter makes of each layer's first anchor, its conditional half, at one step."""
    original, taken = bank.SpectralBank.__call__, {}

    def watching(self, layer, k, v, *, step: int, heads: int):
        out = original(self, layer, k, v, step=step, heads=heads)
        if step == wanted and (self.filter_k or self.filter_v):
            first = len(k) // 2  # rows are the unconditional half's anchors, then the conditional one's
            for name, before, after in zip("kv", (k, v), out, strict=True):
                taken[layer, name] = Taken(method, layer, name, before[first].cpu(), after[first].cpu())
        return out

    wanted = step
    with patch.object(bank.SpectralBank, "__call__", watching):
        yield taken
