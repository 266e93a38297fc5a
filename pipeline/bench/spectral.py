"""`svdstory bench spectral`: the filter against the published protocol, on SDXL's shapes.

Published protocol: for each image, each anchor other than it, each CFG half, K and V: torch.linalg.svd of the anchor's
matrix, f, and the product back. 5 images and 2 anchors: 8 pairs, 32 decompositions a layer and step. Ours: the 8
anchor matrices (2 anchors, 2 halves, K and V) once, in one call of the bank. Both have the same CPU threads.

Symbols: T tokens, C channels.
"""

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from svdstory.pipeline.bench.record import clock
from svdstory.pipeline.bench.spectral_fit import sdxl_spectrum
from svdstory.pipeline.config.methods import SpectralFilter
from svdstory.pipeline.spectral.bank import EARLY, SpectralBank
from svdstory.pipeline.spectral.exact import filter_matrices, gains, ranks

SHAPES = {(1024, 1280): 30, (4096, 640): 6}  # tokens x channels -> up_blocks attn1 layers of SDXL at 1024 px
MATRICES, PUBLISHED, STEPS = 8, 32, 49  # ours and theirs per layer and step; extended steps of a pass of 50
FILTERS = {
    "fraction 0.05": SpectralFilter(keep_fraction=0.05),
    "energy 0.95": SpectralFilter(keep_energy=0.95),
    "log + fraction 0.05": SpectralFilter(keep_fraction=0.05, reweight="log"),
    "log": SpectralFilter(reweight="log"),
    "log2": SpectralFilter(reweight="log2"),
    "exp 0.01": SpectralFilter(reweight="exp", alpha=0.01),
    "clip 4": SpectralFilter(clip=4),
    "power 0.5": SpectralFilter(power=0.5),
}
FLAT = ("fraction 0.05", "energy 0.95")  # also on sigma_i = 30 i^-0.3, which has no few leading vectors to speak of


def bench_spectral(device: str, drift: float = 0.1, warm: int = 7) -> list[dict]:
    """Rows: filter × shape, seconds per layer and step of both, their ratio, errors against float64.

    drift: relative Frobenius distance of a layer's matrices from those of the step before; `bench drift` measures it. Our
    seconds are those of a whole pass divided by its steps: the first one, a few early ones, and the rest.
    """
    rows = []
    for shape in SHAPES:
        steps = drifting(shape, drift, warm + 1, device)
        for name, spec in FILTERS.items():
            rows.append(_row(name, shape, drift, steps, spec, device))
    whole = [_whole_step(rows, name) for name in FILTERS]
    shape = (1024, 1280)
    sigma = 30 * torch.arange(1, min(shape) + 1) ** -0.3
    steps = [a.to(device) for a in turning(sigma, shape, drift / 2**0.5, warm + 1, MATRICES)]
    return rows + whole + [_row(f"{name}, flat", shape, drift, steps, FILTERS[name], device) for name in FLAT]


def _row(
    name: str, shape: tuple[int, int], drift: float, steps: list[Tensor], spec: SpectralFilter, device: str
) -> dict:
    row = {"filter": name, "tokens x channels": "x".join(map(str, shape)), "drift": drift}
    row |= side_by_side(steps, spec, device)
    seconds = (row["first s"] + (EARLY - 1) * row["early s"] + (STEPS - EARLY) * row["warm s"]) / STEPS
    row |= {"ours s": seconds, "ratio": row["published s"] / seconds}
    row["exact path's ratio"] = row["published s"] / row["exact s"]
    print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
    return row


def _whole_step(rows: list[dict], name: str) -> dict:
    """All layers of a step together."""
    layers = [(SHAPES[tuple(map(int, r["tokens x channels"].split("x")))], r) for r in rows if r["filter"] == name]
    total = {
        key: sum(n * r[key] for n, r in layers)
        for key in ("first s", "early s", "warm s", "exact s", "published s", "ours s")
    }
    return {
        **layers[0][1],
        "tokens x channels": "all 36 layers",
        **total,
        "error": max(r["error"] for _, r in layers),
        "published error": max(r["published error"] for _, r in layers),
        "held": all(r["held"] for _, r in layers),
        "fallbacks": sum(r["fallbacks"] for _, r in layers),
        "ratio": total["published s"] / total["ours s"],
        "exact path's ratio": total["published s"] / total["exact s"],
    }


def side_by_side(steps: list[Tensor], spec: SpectralFilter, device: str) -> dict:
    """Seconds and errors, in turns: at each step a layer's matrices by the fast path, then one by the published protocol,
    whose seconds are counted PUBLISHED times. Medians, but for the layer's first step; the exact path at the last. Errors at
    the first two steps and the last."""
    bank, seconds, theirs, error = SpectralBank(spec, spec, exact=False), [], [], 0.0
    published(steps[0][:1], spec)  # may load libraries: not timed
    for i, a in enumerate(steps):
        took, out = timed(lambda: bank(0, *a.chunk(2), step=i + 1, heads=1), device)
        seconds.append(took)
        took, their_out = timed(lambda: published(a[:1], spec), device)
        theirs.append(took)
        if i in (0, 1, len(steps) - 1):
            wanted = filter_matrices(a[:1].double(), spec).matrices
            error = max(error, relative(out[0][:1], wanted))
    exact, _ = timed(lambda: SpectralBank(spec, spec, exact=True)(0, *a.chunk(2), step=1, heads=1), device)
    return {
        "first s": seconds[0],
        "early s": median(seconds[1:EARLY] or seconds),
        "warm s": median(seconds[EARLY:] or seconds),
        "exact s": exact,
        "error": error,
        "held": bank.accepted(),
        "fallbacks": bank.counters()["fallbacks"],
        "published s": PUBLISHED * median(theirs),
        "published error": relative(their_out, wanted),
    }


def timed(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds, by record.py's clock, and what it gave."""
    before = clock(device)
    result = work()
    return clock(device) - before, result


def published(a: Tensor, spec: SpectralFilter) -> Tensor:
    """The published protocol's filter of `a` (1, T, C)."""
    u, sigma, vh = torch.linalg.svd(a.float(), full_matrices=False)
    gain, _ = gains(sigma, ranks(sigma, spec, tuple(a.shape[-2:])), spec)
    return (u * (gain * sigma)[:, None]) @ vh


def drifting(shape: tuple[int, int], drift: float, steps: int, device: str) -> list[Tensor]:
    """One layer's matrices (8, T, C) float32 over some steps, each `drift` away from the one before, with a spectrum
    like that of SDXL's keys."""
    sigma = sdxl_spectrum(torch.arange(1, min(shape) + 1, dtype=torch.float64)).float()
    return [a.to(device) for a in turning(sigma, shape, drift / 2**0.5, steps, MATRICES)]


def turning(sigma: Tensor, shape: tuple[int, int], turn: float, steps: int, matrices: int = 1) -> list[Tensor]:
    """(N, T, C) float32 over some steps, of fixed singular values (r,); all singular vectors turn by the angle `turn` at
    each step, in random directions: the matrix moves by √2 of that."""
    generator = torch.Generator().manual_seed(0)
    sides = [
        [_orthonormal(torch.randn(side, len(sigma), generator=generator)) for side in shape] for _ in range(matrices)
    ]
    out = []
    for _ in range(steps):
        out.append(torch.stack([(u * sigma) @ v.mT for u, v in sides]))
        sides = [
            [_orthonormal(x + turn * len(x) ** -0.5 * torch.randn(x.shape, generator=generator)) for x in pair]
            for pair in sides
        ]
    return out


def _orthonormal(x: Tensor) -> Tensor:
    """By Gram and Schmidt, the larger singular values' vectors first; no column changes its sign."""
    q, r = torch.linalg.qr(x)
    return q * r.diagonal().sign()


def relative(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want).norm() / want.norm())
