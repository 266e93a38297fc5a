"""Singular values of the anchors' keys and values, recorded on demand while a set is sampled.

The report's Figures 4.1 and 4.2 are drawn from them. A anchors, T tokens, C channels, r = min(T, C).
"""

from dataclasses import dataclass, field

from torch import Tensor

from svdstory.pipeline.spectral.exact import spectrum

STEPS = (1, 5, 10, 20, 29)  # the report's iterations, counted from 0; at step 0 nothing is extended


@dataclass
class SpectraRecorder:
    """Keeps the spectra of K and V, as they are before any filter, at some of the layers and steps.

    It reads the first anchor's conditional half. Of a method with feature injection the second pass is kept.
    """

    steps: tuple[int, ...] = STEPS
    layers: tuple[int, ...] = ()  # empty: `choose` takes the first, middle and last
    values: dict[tuple[str, int, int], Tensor] = field(default_factory=dict)  # ("k" | "v", layer, step) -> (r,)

    def choose(self, extending: list[int]) -> None:
        """Told which layers attend to the anchors."""
        if not self.layers and extending:
            self.layers = tuple(sorted({extending[0], extending[len(extending) // 2], extending[-1]}))

    def record(self, layer: int, step: int, k: Tensor, v: Tensor, anchors: int) -> None:
        """k, v: (halves × A, T, C) of one layer at one step."""
        if layer in self.layers and step in self.steps:
            for name, a in (("k", k), ("v", v)):
                self.values[name, layer, step] = spectrum(a[-anchors][None])[0].float().cpu()

    def tensors(self) -> dict[str, Tensor]:
        """`<k or v>.<layer>.<step>` -> (r,) float32, descending: as they are stored."""
        return {f"{name}.{layer}.{step}": values for (name, layer, step), values in sorted(self.values.items())}
