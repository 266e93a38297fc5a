"""The spectral filter, exactly: A^ = U f(Sigma) V^T for the anchors' keys and values.

A^ is a product of A with a small symmetric matrix, so no U and no SVD of A is needed. With A^T A = V Sigma^2 V^T,

    A^ = A W,   W = V diag(f(sigma) / sigma) V^T       (tokens >= channels)
    A^ = W A,   W = U diag(f(sigma) / sigma) U^T       (tokens <  channels, from A A^T)

The Gram matrix squares the condition number, so it is formed and decomposed in float64, where that costs nothing
that float16 or float32 input can show; in float32 the small singular values are noise (tests/pipeline/test_spectral).

Symbols: N matrices, T tokens, C channels, r = min(T, C). Spectra are sorted, largest first.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from svdstory.pipeline.config.methods import SpectralFilter
from svdstory.pipeline.spectral.threads import one_thread_each


class Filtered(NamedTuple):
    """Filtered matrices and, on their device, what was done to each."""

    matrices: Tensor  # (N, T, C), dtype of the input
    kept: Tensor  # (N,) int64: singular values kept, before reweighting
    untouched: Tensor  # (N,) bool: all sigma <= 1, so a logarithm would leave nothing; the matrix is as it was


def filter_matrices(a: Tensor, spec: SpectralFilter) -> Filtered:
    """Replace the singular values of each matrix of `a` (N, T, C) by f(sigma), as sampler.md section 5 says.

    Any float dtype in, the same out. Where nothing changes (a filter that keeps everything), `a` comes back bit for bit.
    Raises FloatingPointError if `a` holds inf or nan.
    """
    r = min(a.shape[-2:])
    if keeps_everything(spec, r):
        return Filtered(a, a.new_full(a.shape[:1], r, dtype=torch.int64), a.new_zeros(a.shape[:1], dtype=torch.bool))
    sigma, basis = decompose(a)  # (N, r), (N, r, r)
    energy = sigma.square().sum(-1)  # (N,)
    kept = ranks(sigma, spec, r=r, energy=energy)  # (N,)
    gain, untouched = gains(sigma, kept, spec, energy=energy)  # (N, r), (N,)
    w = (basis * gain[:, None, :]) @ basis.mT  # (N, r, r)
    return Filtered(_apply(a, w, same=(gain == 1).all(-1)), kept, untouched)


def spectrum(a: Tensor) -> Tensor:
    """Singular values of each matrix of `a` (N, T, C): (N, r) float64, largest first. No vectors are computed."""
    return _roots(checked(torch.linalg.eigvalsh, gram(a)))


def gram(a: Tensor) -> Tensor:
    """The smaller of A^T A and A A^T in float64: (N, T, C) -> (N, r, r)."""
    b = a.double()
    return b.mT @ b if a.shape[-2] >= a.shape[-1] else b @ b.mT


def decompose(a: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values (N, r) and the singular vectors of the smaller side (N, r, r, in columns), float64."""
    squares, vectors = checked(torch.linalg.eigh, gram(a))  # ascending
    return _roots(squares), vectors.flip(-1)


def keeps_everything(spec: SpectralFilter, r: int) -> bool:
    """Whether the filter leaves every matrix of rank at most r as it is, whatever its spectrum."""
    return spec.reweight is None and (not truncates(spec) or (spec.keep_top or 0) >= r)


def truncates(spec: SpectralFilter) -> bool:
    """Whether the filter drops singular values, rather than only reweighting them."""
    return (
        spec.keep_top is not None
        or (spec.keep_fraction is not None and spec.keep_fraction < 1)
        or (spec.keep_energy is not None and spec.keep_energy < 1)
    )


def ranks(sigma: Tensor, spec: SpectralFilter, *, r: int, energy: Tensor | None) -> Tensor:
    """How many of the leading singular values each matrix keeps: (N,) int64, from 1 to r.

    sigma (N, m) are the m <= r leading ones of r; energy (N,) is the sum of the squares of all r, for `keep_energy`. An
    answer of m may mean that more than m should be kept.
    """
    m = sigma.shape[-1]
    if spec.keep_fraction is not None:
        return (sigma >= _quantile(sigma, 1 - spec.keep_fraction, r)[:, None]).sum(-1)
    if spec.keep_energy is not None and spec.keep_energy < 1:
        short = sigma.square().cumsum(-1) <= spec.keep_energy * energy[:, None]  # (N, m): E(k) <= q
        return (short.sum(-1) + 1).clamp_max(m)
    return sigma.new_full(sigma.shape[:1], min(spec.keep_top or m, m), dtype=torch.int64)


def gains(sigma: Tensor, kept: Tensor, spec: SpectralFilter, *, energy: Tensor | None) -> tuple[Tensor, Tensor]:
    """The factors f(sigma) / sigma (N, m) of leading singular values (N, m), and which matrices are untouched (N,).

    The reweighting acts on the `kept` ones (N,) and preserves the norm of what is kept; without truncation that is
    the square root of `energy` (N,).
    """
    mask = torch.arange(sigma.shape[-1], device=sigma.device) < kept[:, None]  # (N, m)
    gain = torch.where(mask, reweighting(sigma, spec), 0)
    if spec.reweight is None:
        return gain, torch.zeros_like(kept, dtype=torch.bool)
    norm = torch.where(mask, sigma, 0).norm(dim=-1) if truncates(spec) else energy.sqrt()
    left = (gain * sigma).norm(dim=-1)  # (N,) what f leaves
    untouched = left == 0
    return torch.where(untouched[:, None], 1, gain * (norm / left)[:, None]), untouched


def reweighting(sigma: Tensor, spec: SpectralFilter) -> Tensor:
    """f(sigma) / sigma before the norm is restored, largest sigma first along the last dimension."""
    if spec.reweight == "exp":  # relative to the largest: the factor cancels with the norm, and nothing overflows
        return torch.exp(spec.alpha * (sigma - sigma[..., :1]))
    if spec.reweight is None:
        return torch.ones_like(sigma)
    power = {"log": 1, "log2": 2}[spec.reweight]
    return sigma.clamp_min(1).log().pow(power) / sigma.clamp_min(1)  # 0 for sigma <= 1


def _quantile(sigma: Tensor, q: float, r: int) -> Tensor:
    """Quantile with linear interpolation of r descending values, of which (N, m) are the leading ones: (N,).

    torch.quantile has an input limit, and rounds a position such as 0.9 * 10 to either side of the 9 that is meant.
    """
    position = (1 - q) * (r - 1)  # from the large end
    low = math.floor(position + 1e-9)
    weight = position - low if position - low > 1e-9 else 0.0
    low, high = (min(i, sigma.shape[-1] - 1) for i in (low, low + 1))
    return sigma[:, low] + weight * (sigma[:, high] - sigma[:, low])


def _apply(a: Tensor, w: Tensor, same: Tensor) -> Tensor:
    """A W or W A in A's dtype (N, T, C); A itself, bit for bit, where `same` (N,)."""
    product = a.double() @ w if a.shape[-2] >= a.shape[-1] else w @ a.double()
    return torch.where(same[:, None, None], a, product.to(a.dtype))


def _roots(squares: Tensor) -> Tensor:
    """Ascending eigenvalues of a Gram matrix -> descending singular values; rounding below zero becomes zero."""
    return squares.clamp_min(0).sqrt().flip(-1)


def checked(decomposition: Callable, matrices: Tensor):
    """decomposition(matrices) of (N, r, r), eigenvalues or a tuple that begins with them; FloatingPointError if these are
    inf or nan.

    On a CPU several go side by side, a thread for each. All threads for one after the other are no faster, and stall where
    something else keeps a core busy.
    """
    if matrices.is_cuda:
        return _checked(decomposition, matrices)
    found = one_thread_each(lambda i: _checked(decomposition, matrices[i]), len(matrices))
    return torch.stack(found) if isinstance(found[0], Tensor) else tuple(map(torch.stack, zip(*found)))


def _checked(decomposition: Callable, matrices: Tensor):
    """LAPACK passes nan on or gives up, by the matrix's size."""
    try:
        found = decomposition(matrices)
    except torch.linalg.LinAlgError:
        if torch.isfinite(matrices).all():
            raise
    else:
        if torch.isfinite(found if isinstance(found, Tensor) else found[0]).all():
            return found
    raise FloatingPointError("an anchor's keys or values hold inf or nan: no spectrum to filter")
