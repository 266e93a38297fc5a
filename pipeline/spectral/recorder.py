"""Singular values of the anchors' keys and values, and what their largest look like on the tokens, recorded on demand
while a set is sampled.

The report's Figures 4.1 and 4.2 are drawn from them. A anchors, T tokens, C channels, r = min(T, C); A = sum_i sigma_i u_i
v_i^T, so u_i (T,) says how much of component i each token holds.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

LEADING = 4  # components whose token maps are kept
STEPS = (1, 5, 10, 20, 29)  # the report's iterations, counted from 0; at step 0 nothing is extended


@dataclass
class SpectraRecorder:
    """Keeps the spectra of K and V and their leading u_i, as they are before any filter, at some of the layers and steps.

    It reads the first anchor's conditional half. Of a method with feature injection the second pass is kept.
    """

    steps: tuple[int, ...] = STEPS
    layers: tuple[int, ...] = ()  # empty: `choose` takes the first, middle and last
    values: dict[tuple[str, int, int], Tensor] = field(default_factory=dict)  # ("k" | "v", layer, step) -> (r,)
    maps: dict[tuple[str, int, int], Tensor] = field(default_factory=dict)  # the same -> (LEADING, T)

    def choose(self, extending: list[int]) -> None:
        """Told which layers attend to the anchors."""
        if not self.layers and extending:
            self.layers = tuple(sorted({extending[0], extending[len(extending) // 2], extending[-1]}))

    def record(self, layer: int, step: int, k: Tensor, v: Tensor, anchors: int) -> None:
        """k, v: (halves × A, T, C) of one layer at one step."""
        if layer in self.layers and step in self.steps:
            for name, a in (("k", k), ("v", v)):
                u, sigma, _ = torch.linalg.svd(a[-anchors].double(), full_matrices=False)  # (T, r), (r,)
                self.values[name, layer, step] = sigma.float().cpu()
                self.maps[name, layer, step] = _upright(u[:, :LEADING].mT).float().cpu()

    def tensors(self) -> dict[str, Tensor]:
        """`<k or v>.<layer>.<step>` -> (r,) float32, descending, and `....tokens` -> (LEADING, T): as they are stored."""
        kept = {f"{name}.{layer}.{step}": values for (name, layer, step), values in sorted(self.values.items())}
        return kept | {
            f"{name}.{layer}.{step}.tokens": maps.contiguous()
            for (name, layer, step), maps in sorted(self.maps.items())
        }


def _upright(u: Tensor) -> Tensor:
    """Rows with the sign that makes their sum positive: an SVD leaves it open."""
    return torch.where(u.sum(-1, keepdim=True) < 0, -u, u)
