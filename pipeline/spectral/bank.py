"""The anchors' spectral filter over one sampling pass: what the sampler calls, once per layer and step."""

from collections.abc import Callable
from functools import partial
from threading import Lock

import torch
from torch import Tensor

from svdstory.pipeline.config.methods import TOLERANCE, SpectralFilter
from svdstory.pipeline.spectral.exact import filter_matrices, keeps_everything, spectrum
from svdstory.pipeline.spectral.fast import needs_tail, reweight, truncate
from svdstory.pipeline.spectral.subspace import Found, Start, block_size, random_start
from svdstory.pipeline.spectral.tail import DECOMPOSED_WITHIN, Recurrence, Tail, by_decomposition, by_products, cheapest
from svdstory.pipeline.spectral.threads import one_thread_each

SMALLEST = 256  # matrices of a lower rank are decomposed exactly: that is as fast
AGAIN = 25  # times a layer is filtered before its spectrum is looked at again
FITTING = 0.8  # share of the tolerance that the small singular values may take, by the spectra that are looked at

FastPath = Callable[
    ..., Found | None
]  # a, start, out: writes to out, or returns None where it doesn't hold the tolerance


class SpectralBank:
    """Filters the anchors' keys and values, layer by layer, through one sampling pass.

    One bank per pass: it keeps each layer's leading subspace from one step to the next. `exact` takes the exact path
    for everything; otherwise the fast ones (spectral_fast.py), and the exact one where they would not hold
    `tolerance`, which `counters` reports: by leading vectors for each matrix and step, by log's small singular values for
    a sample of matrices and steps. A GPU gets all matrices of a layer in one batch; on a CPU each is filtered by itself,
    on as many threads as torch has. Symbols as in spectral.py; N = CFG halves x anchors.
    """

    def __init__(
        self,
        filter_k: SpectralFilter | None,
        filter_v: SpectralFilter | None,
        *,
        exact: bool,
        tolerance: float = TOLERANCE,
    ):
        self.filter_k, self.filter_v, self.exact, self.tolerance = filter_k, filter_v, exact, tolerance
        self._starts: dict[tuple, Start] = {}  # by layer, which matrices and their shape
        self._fits: dict[tuple, tuple[int, Recurrence | None, float]] = {}  # times filtered; what fits, its misfit
        self._totals: dict[str, Tensor | int] = {"matrices": 0, "exact": 0, "fallbacks": 0, "untouched": 0}
        self._counting = Lock()

    def __call__(self, layer: int | str, k: Tensor, v: Tensor, *, step: int, heads: int) -> tuple[Tensor, Tensor]:
        """Filter the anchors' k and v (N, T, C), full width, of one attention layer at one step (from 0).

        Returns them in their dtype; what has no filter, or none at this step, comes back as it is.
        """
        if self.filter_k is not None and self.filter_k == self.filter_v and k.is_cuda:
            return self._at_step((layer, "kv"), torch.cat([k, v]), self.filter_k, step, heads).chunk(2)
        return (
            k if self.filter_k is None else self._at_step((layer, "k"), k, self.filter_k, step, heads),
            v if self.filter_v is None else self._at_step((layer, "v"), v, self.filter_v, step, heads),
        )

    def counters(self) -> dict[str, int]:
        """Totals over the pass, for the manifest. Reads them from the device: call it after the last step.

        matrices: how many were filtered. exact: of these, by the exact path. fallbacks: of these, because a fast path
        did not hold its tolerance. untouched: how many a logarithm would have left empty, so were left as they are.
        """
        return {name: int(total) for name, total in self._totals.items()}

    def _at_step(self, key: tuple, a: Tensor, spec: SpectralFilter, step: int, heads: int) -> Tensor:
        if not spec.acts_at(step):
            return a
        if spec.granularity == "head":
            n, t, _ = a.shape
            a = a.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1)  # (N · heads, T, D)
            a = self._filter(key, a, spec)
            return a.unflatten(0, (n, heads)).transpose(1, 2).flatten(2)  # (N, T, C)
        return self._filter(key, a, spec)

    def _filter(self, key: tuple, a: Tensor, spec: SpectralFilter) -> Tensor:
        self._count("matrices", a.shape[0])
        key, out = (*key, tuple(a.shape)), torch.empty_like(a)
        way = self._way(key, a, spec)
        if a.is_cuda or min(a.shape[-2:]) < SMALLEST:
            self._filtered(key, a, spec, way, out)
        else:
            one_thread_each(lambda i: self._filtered((*key, i), a[i : i + 1], spec, way, out[i : i + 1]), a.shape[0])
        return out

    def _way(self, key: tuple, a: Tensor, spec: SpectralFilter) -> FastPath | None:
        """The fast path that suits these matrices; None for the exact one."""
        r = min(a.shape[-2:])
        if self.exact or r < SMALLEST or a.dtype == torch.float64 or keeps_everything(spec, r):
            return None
        if not needs_tail(spec):
            return partial(truncate, spec=spec, tolerance=self.tolerance)
        tail, wrong = self._tail(key, a, spec)
        if wrong > FITTING * self.tolerance:
            self._count("fallbacks", a.shape[0])
            return None
        return partial(reweight, spec=spec, tail=tail, tolerance=(self.tolerance**2 - wrong**2) ** 0.5)

    def _tail(self, key: tuple, a: Tensor, spec: SpectralFilter) -> tuple[Tail, float]:
        """How to do the small singular values, and the error of that.

        Chosen now and then, by the spectra of two of the matrices: of K and V together one of each, else of both halves.
        """
        times, by, wrong = self._fits.get(key, (0, None, 0.0))
        if times % AGAIN == 0:
            sample = a[:: max(1, a.shape[0] // 2)]
            by, wrong = cheapest(spectrum(sample), spec, most=FITTING * self.tolerance)
        self._fits[key] = times + 1, by, wrong
        return (by_decomposition(spec), DECOMPOSED_WITHIN) if by is None else (by_products(spec, by), wrong)

    def _filtered(self, key: tuple, a: Tensor, spec: SpectralFilter, way: FastPath | None, out: Tensor) -> None:
        if way is None:
            self._exactly(a, spec, out)
            return
        start = self._starts.get(key)
        if start is None:
            start = random_start(a, _first_block(spec, r=min(a.shape[-2:])))
        found = way(a, start=start, out=out)
        if found is None:
            self._count("fallbacks", a.shape[0])
            self._exactly(a, spec, out)
            return
        self._starts[key] = found.start._replace(left=found.start.left.to(a.dtype))
        if found.untouched is not None:
            self._count("untouched", found.untouched.sum())

    def _exactly(self, a: Tensor, spec: SpectralFilter, out: Tensor) -> None:
        self._count("exact", a.shape[0])
        filtered = filter_matrices(a, spec)
        self._count("untouched", filtered.untouched.sum())  # stays on the device
        out.copy_(filtered.matrices)

    def _count(self, what: str, matrices: Tensor | int) -> None:
        with self._counting:
            self._totals[what] += matrices


def _first_block(spec: SpectralFilter, r: int) -> int:
    """Columns to begin with at a layer's first step."""
    if spec.keep_top is not None:
        return block_size(min(spec.keep_top, r))
    return 48 if spec.keep_fraction is None else block_size(int(spec.keep_fraction * r) + 1)
