"""The anchors' spectral filter over one sampling pass: what the sampler calls, once per layer and step."""

import math
from collections.abc import Callable, Hashable
from contextlib import contextmanager

import torch
from torch import Tensor

from svdstory.pipeline.config.methods import TOLERANCE, SpectralFilter
from svdstory.pipeline.spectral.exact import NOT_FINITE, exact_flop, filter_matrices, fixed_rank
from svdstory.pipeline.spectral.fast import fast_filter, wanted_rank, ways

SMALLEST = 256  # matrices of a lower rank are decomposed exactly: that is as fast
EARLY = 5  # times that a layer is filtered in a pass before its matrices begin to move less
CHOOSING = 0.9  # share of the tolerance for a path that is chosen at a layer's first step
EXACT = 99  # beyond all fast paths


class SpectralBank:
    """Filters the anchors' keys and values, layer by layer, through one sampling pass.

    All matrices of a layer are one batch: K and V of both halves. Each takes the cheapest of its filter's fast paths
    (fast.py's `ways`) until that fails the tolerance, then the next, at last the exact one; with `exact` that at once.
    Where the rank is known beforehand nothing waits for the device: how wrong each matrix was, `accepted` reads once,
    after the last step, and a pass in which one failed is made again. Other filters choose at a layer's first step.
    Products are in full float32, whatever the caller has set. N = CFG halves x anchors, T tokens, C channels.
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
        self._levels: dict[tuple, list[int]] = {}  # by layer, of each matrix: which of the ways it takes
        self._failed: dict[tuple, Tensor] = {}  # the same, on the device: whether it failed in this pass
        self._states: dict[tuple, tuple] = {}  # by layer and level: which matrices, how often, where to begin
        self._notes: dict[tuple, Tensor] = {}  # on the device, by what and filter: read by `accepted`
        self._counts = dict.fromkeys(("matrices", "exact", "exact_gflop", "fallbacks", "untouched", "repeated"), 0)

    def __call__(self, layer: Hashable, k: Tensor, v: Tensor, *, step: int, heads: int) -> tuple[Tensor, Tensor]:
        """Filter the anchors' k and v (N, T, C), full width, of one attention layer at one step (from 0).

        Returns them in their dtype; what has no filter, or none at this step, comes back as it is.
        """
        if self.filter_k == self.filter_v and self._acts(self.filter_k, k, step):
            return self._by_head((layer, "kv"), torch.cat([k, v]), self.filter_k, heads).chunk(2)
        return tuple(
            self._by_head((layer, name), x, spec, heads) if self._acts(spec, x, step) else x
            for name, x, spec in (("k", k, self.filter_k), ("v", v, self.filter_v))
        )

    def accepted(self) -> bool:
        """After the last step: whether every matrix held the tolerance at every step. The device is read once.

        If not, the pass has to be made again with this bank, where what failed takes its next path, and in a third pass
        the exact one. Raises FloatingPointError if a matrix held inf or nan, or a filter that doesn't rescale overflowed.
        """
        tensors = [*self._failed.values(), *self._notes.values()]
        values = iter(torch.cat([tensor.double().flatten() for tensor in tensors]).tolist() if tensors else ())
        failed = {key: [bool(next(values)) for _ in flags] for key, flags in self._failed.items()}
        notes = dict(zip(self._notes, values))
        self._failed, self._states, self._notes = {}, {}, {}
        for (what, name), value in notes.items():
            if what == "inf" and value:
                raise FloatingPointError(NOT_FINITE)
            if what == "overflow" and value:
                raise FloatingPointError(_overflow(self._spec(name), notes["most", name]))
            self._counts["untouched"] += int(value) if what == "untouched" else 0
        for key, flags in failed.items():
            for i in (i for i, bad in enumerate(flags) if bad):
                self._levels[key][i] += 1 if self._counts["repeated"] == 0 else EXACT
        again = any(map(any, failed.values()))
        self._counts["repeated"] += again
        return not again

    def counters(self) -> dict[str, int]:
        """Totals for the manifest, complete after `accepted`.

        matrices: how many were filtered. exact: of these, by the exact path; exact_gflop: its float64 operations, at most
        steps x layers x N x `exact_flop` a pass. fallbacks: of these, because fast paths did not hold the tolerance.
        untouched: how many a logarithm would have left empty, so were left as they are. repeated: passes that were made
        again, at most two.
        """
        return {name: round(count) for name, count in self._counts.items()}

    def _spec(self, name: str) -> SpectralFilter:
        return self.filter_v if name == "v" else self.filter_k

    def _acts(self, spec: SpectralFilter | None, x: Tensor, step: int) -> bool:
        if spec is None or not spec.acts_at(step):
            return False
        r = min(x.shape[-2:])
        return spec.reweights or (spec.truncates and fixed_rank(spec, r) != r)

    def _by_head(self, key: tuple, a: Tensor, spec: SpectralFilter, heads: int) -> Tensor:
        with full_float32():
            if spec.granularity == "full":
                return self._filter(key, a, spec)
            each = a.unflatten(-1, (heads, -1)).transpose(1, 2)  # (N, heads, T, D)
            return self._filter(key, each.flatten(0, 1), spec).unflatten(0, each.shape[:2]).transpose(1, 2).flatten(2)

    def _filter(self, key: tuple, a: Tensor, spec: SpectralFilter) -> Tensor:
        """`a` (N, T, C), each matrix by its path, and by the next one where that is seen to fail at once."""
        key, n, r = (*key, tuple(a.shape)), len(a), min(a.shape[-2:])
        small = r < SMALLEST and (spec.granularity == "full" or wanted_rank(spec, r) is None)
        slow = self.exact or a.dtype == torch.float64 or small
        levels = self._levels.setdefault(key, [EXACT if slow else 0] * n)
        self._counts["matrices"] += n
        out, todo = torch.empty_like(a), set(range(n))
        while todo:
            level = min(levels[i] for i in todo)
            rows = [i for i in sorted(todo) if levels[i] == level]
            made, lost = self._by(level, key, a if len(rows) == n else torch.stack([a[i] for i in rows]), rows, spec)
            for i, row in zip(rows, made):
                out[i] = row
            for i in lost:
                levels[i] += 1
            todo -= set(rows) - set(lost)
        self._remember(key[1], a, out, spec)
        return out

    def _by(self, level: int, key: tuple, a: Tensor, rows: list[int], spec: SpectralFilter) -> tuple[Tensor, list[int]]:
        """These rows of a layer by one path, and which of them that has been seen to fail."""
        paths = ways(spec)
        if level >= len(paths):
            self._counts["exact"] += len(a)
            self._counts["exact_gflop"] += len(a) * exact_flop(*a.shape[-2:]) / 1e9
            self._counts["fallbacks"] += len(a) if 0 < level != EXACT else 0
            return filter_matrices(a, spec).matrices, []
        before, times, state = self._states.get((key, level), (rows, 0, None))
        if before != rows:
            state = tuple(torch.stack([part[before.index(i)] for i in rows]) for part in state)
        made, state, error, beyond = fast_filter(a, spec, paths[level], state, early=times < EARLY)
        self._states[key, level] = rows, times + 1, state
        if times == 0 and wanted_rank(spec, min(a.shape[-2:])) is None:  # no rank is known: now or never
            beyond = [i for i, one in enumerate(error.tolist()) if i in beyond or not one <= CHOOSING * self.tolerance]
        failed = self._failed.setdefault(key, torch.zeros(len(self._levels[key]), dtype=torch.bool, device=a.device))
        for i, row in enumerate(rows):
            if i not in beyond:
                failed[row] |= ~(error[i] <= self.tolerance)  # not-a-number fails
        return made, [rows[i] for i in beyond]

    def _remember(self, name: str, a: Tensor, out: Tensor, spec: SpectralFilter) -> None:
        """What `accepted` will ask."""

        def add(what: str, value: Tensor, combined: Callable = torch.add) -> None:
            known = self._notes.get((what, name))
            self._notes[what, name] = value.double() if known is None else combined(known, value.double())

        add("inf", ~torch.linalg.vector_norm(a, dtype=torch.promote_types(a.dtype, torch.float32)).isfinite())
        if spec.reweights:
            add("untouched", (out == a).flatten(1).all(-1).sum())
        if not spec.rescale:
            norm = a.float().norm(dim=(-2, -1)).max().double()  # not less than sigma_1, and little more
            room = math.log(torch.finfo(a.dtype).max) - norm.log()
            add("overflow", (~out.isfinite()).any())
            add("most", room / norm if spec.reweight == "exp" else 1 + room / norm.log(), torch.minimum)


def _overflow(spec: SpectralFilter, most: float) -> str:
    switch = f"alpha {spec.alpha}" if spec.reweight == "exp" else f"power {spec.power}"
    return f"a filter with {switch} and rescale: false overflowed: up to {most:.3g} would do here, or rescale: true"


@contextmanager
def full_float32():
    """Float32 products in full, not in TF32, whatever the caller has set."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
