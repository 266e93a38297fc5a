"""`svdstory bench drift`: how far an anchor's K and V move from one step to the next, in a model with trained weights.

That is what a warm start of the filter lives on, and what `bench spectral` makes up for SDXL's shapes.
Symbols: T tokens, C channels, r = min(T, C).
"""

from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median

from torch import Tensor

from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.prompt_files import find_sets
from svdstory.pipeline.generation import generate
from svdstory.pipeline.models.load import load_model
from svdstory.pipeline.spectral.exact import decompose
from svdstory.pipeline.spectral.recorder import SpectraRecorder

LEADING, SPAN = 0.1, 1.5  # that share of r vectors, against the span of so many times as many of the step before


@dataclass
class DriftRecorder(SpectraRecorder):
    """Keeps, of the first anchor's conditional half in every layer, what `moved` says of each step."""

    before: dict[tuple[str, int], tuple[Tensor, ...]] = field(default_factory=dict)
    moves: dict[tuple, list[tuple[float, float, float]]] = field(default_factory=lambda: defaultdict(list))

    def choose(self, extending: list[int]) -> None:
        """All of them."""

    def record(self, layer: int, step: int, k: Tensor, v: Tensor, anchors: int) -> None:
        """k, v: (halves × A, T, C) of one layer at one step."""
        for name, a in (("k", k), ("v", v)):
            now = _leading(a[-anchors].double())
            if (name, layer) in self.before:
                self.moves[layer, name, "x".join(map(str, a.shape[1:]))].append(moved(self.before[name, layer], now))
            self.before[name, layer] = now


def moved(before: tuple[Tensor, ...], now: tuple[Tensor, ...]) -> tuple[float, float, float]:
    """Relative Frobenius distance of A and of its singular values, and the largest sine of the angles by which leading
    left vectors have turned out of the span of those before. Both are A (T, C), sigma (r,) and left vectors (T, m)."""
    (a, sigma, left), (a_new, sigma_new, left_new) = before, now
    wanted = left_new[:, : max(1, int(LEADING * len(sigma)))]
    outside = wanted - left @ (left.mT @ wanted)
    return (
        float((a_new - a).norm() / a.norm()),
        float((sigma_new - sigma).norm() / sigma.norm()),
        float(outside.norm(dim=0).max()),
    )


def _leading(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A (T, C), all its singular values (r,) and its leading left singular vectors."""
    sigma, basis = (x[0] for x in decompose(a[None]))
    count = max(2, int(SPAN * LEADING * len(sigma)))
    left = basis[:, :count] if a.shape[0] < a.shape[1] else a @ basis[:, :count] / sigma[:count]
    return a, sigma, left


def bench_drift(model: str, prompts: str, method: str, steps: int, device: str) -> list[dict]:
    """Rows: layer × K or V, medians and maxima over the steps; the last is over all layers."""
    recorder, (one,) = DriftRecorder(), find_sets(prompts)
    generate(load_model(model, device), one, named(method), seed=0, steps=steps, guidance=3.0, spectra=recorder)
    rows = [
        _row({"layer": layer, "of": name, "tokens x channels": shape}, moves)
        for (layer, name, shape), moves in sorted(recorder.moves.items())
    ]
    return rows + [_row({"layer": "all"}, [move for moves in recorder.moves.values() for move in moves])]


def _row(of: dict, moves: list[tuple[float, float, float]]) -> dict:
    names = ("drift", "of sigma", "turned")
    return of | {
        f"{name}, {what.__name__}": what(column) for name, column in zip(names, zip(*moves)) for what in (median, max)
    }
