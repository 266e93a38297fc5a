"""DreamSim (Fu et al., arXiv 2306.09344) through its own package, from staged files alone.

`dreamsim.dreamsim` reads everything below one `cache_dir` and sends DINO's architecture through torch.hub. It is given
a temporary folder: links to the staged weights, and a hub entry of ours in place of the code it would download.
"""

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from dreamsim import dreamsim
from PIL import Image

from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.metrics.precision import full_precision
from svdstory.pipeline.metrics.preprocessing import in_threads
from svdstory.pipeline.metrics.random_dreamsim import write_random_dreamsim
from svdstory.pipeline.metrics.scorer import RANDOM

HUB_ENTRY = "facebookresearch_dino_main"
HUB_CODE = f"from {__package__}.dino import dino_vitb16\n"


class DreamSimEmbedder:
    """DreamSim's normalised embeddings, fp32: its distance is 1 - cos of two of them. Loaded when first needed.

    kind    ensemble, dino_vitb16, clip_vitb32 or open_clip_vitb32
    folder  where the release's files lie (`.../dreamsim`), with their sha256; None: seeded random weights
    """

    name = "dreamsim"

    def __init__(self, kind: str, folder: Path | None, sha256: str | None = None, device: str = "cpu", batch: int = 64):
        self.kind, self.folder, self.device, self.batch = kind, folder, device, batch
        self.protocol = {
            "embedder": f"dreamsim {kind}",
            "library": f"dreamsim {version('dreamsim')}, peft {version('peft')}",
            "weights": sha256 if folder else RANDOM,
            "preprocessing": "bicubic 224 × 224 without crop, each backbone's mean and std",
        }

    @cached_property
    def loaded(self) -> tuple[torch.nn.Module, Callable[[Image.Image], torch.Tensor]]:
        """The model, and its preprocessing: (1, 3, 224, 224) from a picture."""
        if self.folder:
            return _load(self.kind, self.folder, self.device)
        with tempfile.TemporaryDirectory(prefix="svdstory-random-") as place:
            write_random_dreamsim(self.kind, Path(place))
            return _load(self.kind, Path(place), self.device)

    @full_precision()
    def embed(self, images: Sequence[Image.Image]) -> np.ndarray:
        """(B, D) float32, zero mean and unit norm; D = 1792 for the ensemble."""
        (model, preprocess), parts = self.loaded, []
        for start in range(0, len(images), self.batch):
            pixels = torch.cat(in_threads(preprocess, images[start : start + self.batch]))  # B 3 224 224
            parts.append(model.embed(pixels.to(self.device)).cpu().numpy())
        return np.concatenate(parts)


def _load(kind: str, folder: Path, device: str):
    with torch.random.fork_rng(devices=[]), offline_hub(folder) as cache, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside dreamsim, and peft on a model that it has seen before
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            model, preprocess = dreamsim(pretrained=True, device=device, cache_dir=str(cache), dreamsim_type=kind)
    idle = [name for name, tensor in model.state_dict().items() if "lora_B" in name and not tensor.any()]
    if idle:  # B starts at zero: peft skips keys that it doesn't know without a word
        raise InputError(
            f"DreamSim's adapter in {folder} was not applied to {len(idle)} layers (first: {idle[0]}): "
            f"it doesn't fit dreamsim {version('dreamsim')} with peft {version('peft')}."
        )
    return model, preprocess


@contextlib.contextmanager
def offline_hub(folder: Path) -> Iterator[Path]:
    """A temporary folder that dreamsim and torch.hub take for a filled cache. torch.hub's own setting is put back."""
    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory(prefix="svdstory-dreamsim-") as place:
        for item in folder.resolve().iterdir():
            (Path(place) / item.name).symlink_to(item)
        (Path(place) / HUB_ENTRY).mkdir()
        (Path(place) / HUB_ENTRY / "hubconf.py").write_text(HUB_CODE, encoding="utf-8")
        try:
            yield Path(place)
        finally:
            torch.hub.set_dir(before)
