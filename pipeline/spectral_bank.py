"""The anchors' spectral filter over one sampling pass: what the sampler calls, once per layer and step."""

import torch
from torch import Tensor

from .methods import SpectralFilter
from .spectral import filter_matrices


class SpectralBank:
    """Filters the anchors' keys and values, layer by layer, through one sampling pass.

    One bank per pass: it may keep each layer's subspace from one step to the next. Symbols as in spectral.py;
    N = CFG halves x anchors.
    """

    def __init__(self, filter_k: SpectralFilter | None, filter_v: SpectralFilter | None, *, exact: bool):
        self.filter_k, self.filter_v, self.exact = filter_k, filter_v, exact
        self._totals: dict[str, Tensor | int] = {"matrices": 0, "untouched": 0}

    def __call__(self, layer: int | str, k: Tensor, v: Tensor, *, step: int, heads: int) -> tuple[Tensor, Tensor]:
        """Filter the anchors' k and v (N, T, C), full width, of one attention layer at one step (from 0).

        Returns them in their dtype; what has no filter comes back as it is.
        """
        if self.filter_k is not None and self.filter_k == self.filter_v:
            k, v = self._filter(torch.cat([k, v]), self.filter_k).chunk(2)
        else:
            k = k if self.filter_k is None else self._filter(k, self.filter_k)
            v = v if self.filter_v is None else self._filter(v, self.filter_v)
        return k, v

    def counters(self) -> dict[str, int]:
        """Totals over the pass, for the manifest. Reads them from the device: call it after the last step.

        matrices: how many were filtered. untouched: how many a logarithm would have left empty, so were left as
        they are.
        """
        return {name: int(total) for name, total in self._totals.items()}

    def _filter(self, a: Tensor, spec: SpectralFilter) -> Tensor:
        filtered = filter_matrices(a, spec)
        self._totals["matrices"] += a.shape[0]
        self._totals["untouched"] += filtered.untouched.sum()  # stays on the device
        return filtered.matrices
