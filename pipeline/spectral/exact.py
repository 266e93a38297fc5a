"""The spectral filter, exactly: A^ = U f(Sigma) V^T for the anchors' keys and values. For tokens >= channels

    1. G = A^T A = V Sigma^2 V^T        in float64, which its squared condition number needs
    2. the rank k that is kept, and f   from all of Sigma
    3. W = V diag(f(sigma) / sigma) V^T, A^ = A W

and for tokens < channels the same with A A^T and W A. Error: one rounding to A's dtype; with G in float32 it would be 2e-3 to
2e-2 for log (tests/pipeline/test_spectral.py). Cost: `exact_flop`, mostly a decomposition that GPUs do one by one.
Symbols: N matrices, T tokens, C channels, r = min(T, C). Spectra are sorted, largest first.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from svdstory.pipeline.config.methods import SpectralFilter
from svdstory.pipeline.config.strict import InputError

NOT_FINITE = "an anchor's keys or values hold inf or nan: no spectrum to filter"


class Filtered(NamedTuple):
    """Filtered matrices and, on their device, what was done to each."""

    matrices: Tensor  # (N, T, C), dtype of the input
    kept: Tensor  # (N,) int64: singular values kept, before reweighting
    untouched: Tensor  # (N,) bool: a logarithm would leave nothing of sigma <= 1; the matrix is as it was


def filter_matrices(a: Tensor, spec: SpectralFilter) -> Filtered:
    """Replace the singular values of each matrix of `a` (N, T, C) by f(sigma), as sampler.md section 5 says.

    Any float dtype in, the same out. Where nothing changes (a filter that keeps everything), `a` comes back bit for bit.
    Raises FloatingPointError if `a` holds inf or nan, InputError if `clip` reaches beyond its singular values.
    """
    sigma, basis = decompose(a)  # (N, r), (N, r, r)
    kept = ranks(sigma, spec, tuple(a.shape[-2:]))  # (N,)
    gain, untouched = gains(sigma, kept, spec)  # (N, r), (N,)
    w = (basis * gain[:, None, :]) @ basis.mT  # (N, r, r)
    product = a.double() @ w if a.shape[-2] >= a.shape[-1] else w @ a.double()
    same = (gain == 1).all(-1)[:, None, None]
    return Filtered(torch.where(same, a, product.to(a.dtype)), kept, untouched)


def exact_flop(tokens: int, channels: int) -> int:
    """Float64 operations of `filter_matrices` for one matrix; its eigenvectors take about 9 r^3 of them."""
    r = min(tokens, channels)
    return 4 * r**2 * max(tokens, channels) + 11 * r**3


def spectrum(a: Tensor) -> Tensor:
    """Singular values of each matrix of `a` (N, T, C): (N, r) float64, largest first. No vectors are computed."""
    return checked(torch.linalg.eigvalsh, _gram(a)).clamp_min(0).sqrt().flip(-1)


def decompose(a: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values (N, r) and the singular vectors of the smaller side (N, r, r, in columns), float64."""
    squares, vectors = checked(torch.linalg.eigh, _gram(a))  # ascending; rounding may go below zero
    return squares.clamp_min(0).sqrt().flip(-1), vectors.flip(-1)


def fixed_rank(spec: SpectralFilter, r: int) -> int | None:
    """How many of r singular values are kept, where that doesn't depend on them (but for ties); None otherwise."""
    if spec.keep_fraction is not None:
        return math.floor(spec.keep_fraction * (r - 1) + 1e-9) + 1
    return min(spec.keep_top or r, r) if spec.keep_top is not None or not spec.truncates else None


def ranks(sigma: Tensor, spec: SpectralFilter, shape: tuple[int, int]) -> Tensor:
    """How many of its singular values (N, r) each matrix of this shape (T, C) keeps: (N,) int64, from 1 to r."""
    r = sigma.shape[-1]
    if spec.keep_fraction is not None:
        return (sigma >= _quantile(sigma, 1 - spec.keep_fraction)[:, None]).sum(-1)
    if spec.keep_energy is not None and spec.truncates:
        squares = sigma.square()
        return ((squares.cumsum(-1) <= spec.keep_energy * squares.sum(-1, True)).sum(-1) + 1).clamp_max(r)  # E(k) <= q
    if spec.keep == "gavish-donoho":  # sigma > omega(beta) median(sigma): arXiv 1305.5870, equation 5
        beta = min(shape) / max(shape)
        omega = 0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43
        return (sigma > omega * _quantile(sigma, 0.5)[:, None]).sum(-1).clamp_min(1)
    if spec.keep == "effective-rank":  # exp of the entropy of sigma / sum(sigma), rounded up
        share = sigma / sigma.sum(-1, True).clamp_min(1e-300)
        return (-torch.special.xlogy(share, share).sum(-1)).exp().sub(1e-9).ceil().long().clamp(1, r)
    return sigma.new_full(sigma.shape[:1], fixed_rank(spec, r), dtype=torch.int64)


def gains(sigma: Tensor, kept: Tensor, spec: SpectralFilter) -> tuple[Tensor, Tensor]:
    """The factors f(sigma) / sigma of singular values (N, r), and which matrices are untouched (N,).

    The reweighting acts on the `kept` ones (N,) and, unless the filter says otherwise, preserves their norm.
    """
    mask = torch.arange(sigma.shape[-1], device=sigma.device) < kept[:, None]  # (N, r)
    gain = torch.where(mask, reweighting(sigma, spec), 0)
    if not spec.reweights:
        return gain, torch.zeros_like(kept, dtype=torch.bool)
    left = (gain * sigma).norm(dim=-1)  # (N,) what f leaves
    norm = torch.where(mask, sigma, 0).norm(dim=-1) if spec.rescale else left
    return torch.where((left == 0)[:, None], 1, gain * (norm / left)[:, None]), left == 0


def reweighting(sigma: Tensor, spec: SpectralFilter, top: Tensor | None = None) -> Tensor:
    """f(sigma) / sigma before the norm is restored, largest sigma first along the last dimension."""
    if spec.clip is not None:
        if spec.clip >= sigma.shape[-1]:
            raise InputError(f"clip {spec.clip} of {sigma.shape[-1]} singular values: give less than there are")
        return (sigma[..., spec.clip, None] / sigma.clamp_min(1e-300)).clamp_max(1)
    if spec.power is not None:
        return torch.where(sigma > 0, sigma ** (spec.power - 1), 0)
    if spec.reweight == "exp":  # relative to the largest, where that cancels with the norm: nothing overflows
        return torch.exp(spec.alpha * (sigma - (sigma[..., :1] if top is None else top) * spec.rescale))
    if spec.reweight is None:
        return torch.ones_like(sigma)
    return sigma.clamp_min(1).log().pow({"log": 1, "log2": 2}[spec.reweight]) / sigma.clamp_min(1)


def checked(decomposition: Callable, matrices: Tensor):
    """decomposition(matrices) of (N, r, r), eigenvalues or a tuple that begins with them.

    Raises FloatingPointError if they are inf or nan: LAPACK passes these on or gives up, by the matrix's size.
    """
    try:
        found = decomposition(matrices)
    except torch.linalg.LinAlgError as error:
        raise FloatingPointError(str(error) if torch.isfinite(matrices).all() else NOT_FINITE) from error
    if not torch.isfinite(found if isinstance(found, Tensor) else found[0]).all():
        raise FloatingPointError(NOT_FINITE)
    return found


def _gram(a: Tensor) -> Tensor:
    """The smaller of A^T A and A A^T in float64: (N, T, C) -> (N, r, r)."""
    b = a.double()
    return b.mT @ b if a.shape[-2] >= a.shape[-1] else b @ b.mT


def _quantile(sigma: Tensor, q: float) -> Tensor:
    """quantile(sigma, q) of sorted spectra (N, r): (N,). torch.quantile has an input limit and rounds 0.9 * 10 off 9."""
    position = (1 - q) * (sigma.shape[-1] - 1)  # from the large end
    low = math.floor(position + 1e-9)
    high, weight = min(low + 1, sigma.shape[-1] - 1), max(position - low, 0) if position - low > 1e-9 else 0.0
    return sigma[:, low] + weight * (sigma[:, high] - sigma[:, low])
