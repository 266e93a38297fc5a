"""The spectral filter by a leading subspace and matrix products, with a tolerance and a check of its own.

Truncation needs the leading subspace alone (spectral_subspace.py). log and log² of the whole spectrum take the
leading vectors from there and the rest from spectral_tail.py.
Symbols: N matrices, T tokens, C channels, r = min(T, C), b block columns.
"""

import torch
from torch import Tensor

from svdstory.pipeline.config.methods import SpectralFilter
from svdstory.pipeline.spectral.exact import gains, ranks, reweighting, truncates
from svdstory.pipeline.spectral.products import product, symmetric_product, transposed
from svdstory.pipeline.spectral.subspace import Found, Leading, Start, Wanted, find, truncation_errors
from svdstory.pipeline.spectral.tail import STEEPEST, Tail

ROUNDING = 1e-6  # of an energy, relative, by float32's products: 5e-7 was seen
COUPLING = 0.2  # of the largest error that a vector's residual allows
ROWS = 1024  # tokens that a CPU works on at a time: memory that is used again needs no new pages
MARGIN = 0.9  # leading vectors are taken out from this share of the tail's edge on


def needs_tail(spec: SpectralFilter) -> bool:
    """Whether the small singular values count: for log and log² of the whole spectrum."""
    return spec.reweight in STEEPEST and not truncates(spec)


def truncate(a: Tensor, spec: SpectralFilter, start: Start, tolerance: float, out: Tensor) -> Found | None:
    """Write the filtered matrices of `a` (N, T, C) to `out`, for a filter that keeps few singular values.

    None where the tolerance isn't met: then nothing was written. `exp` without truncation keeps as many as hold all but
    a half of the tolerance of its norm.
    """
    single = a.float()
    energy = total_energy(single) if spec.keep_energy is not None or not truncates(spec) else None

    def want(leading: Leading) -> Wanted:
        sigma = leading.sigma
        kept = (
            ranks(sigma, spec, r=min(a.shape[-2:]), energy=energy)
            if truncates(spec)
            else _enough_of_exp(sigma, energy, spec.alpha, tolerance / 2)
        )
        gain, untouched = gains(sigma, kept, spec, energy=energy)
        errors = truncation_errors(leading, gain * sigma)
        if spec.keep_energy is not None:
            errors = torch.where(_undecided(leading, spec, energy)[:, None], 1, errors)
        return Wanted(gain, kept, untouched, torch.where(untouched[:, None], 0, errors))

    found = find(single, start, want, tolerance, settled=0.25)
    if found is None:
        return None
    left, right = found.left * found.gain[:, None].float(), found.back.mT  # U diag(gain) U^T A
    out.copy_(product(left, right))
    if found.untouched is not None:
        out.copy_(torch.where(found.untouched[:, None, None], a, out))
    return found


def reweight(a: Tensor, spec: SpectralFilter, tail: Tail, start: Start, tolerance: float, out: Tensor) -> Found | None:
    """log or log² of the whole spectrum: as `truncate`, from leading vectors and what `tail` makes of the rest.

    The tolerance is that of the leading vectors. Where None is returned, `out` may have been written to. A GPU waits for
    the host once more than in `find`.
    """
    single = a.float()

    def want(leading: Leading) -> Wanted:
        kept = (leading.sigma > MARGIN * tail.edge).sum(-1)
        taken = torch.arange(leading.sigma.shape[-1], device=a.device) < kept[:, None]
        gain = torch.where(taken, reweighting(leading.sigma, spec), 0)
        return Wanted(gain, kept, leading.sigma[:, 0] <= 1, _coupling_errors(leading, gain, tail))

    found = find(single, start, want, tolerance, settled=0)
    if found is None:
        return None
    left, back, gain = found.left, found.back.mT, found.gain[:, None].float()
    taken, wanted = left * (gain > 0), left * gain
    whole = out if out.dtype == torch.float32 else torch.empty_like(single)
    for rows in _rows(single):  # first the rest alone, sigma <= edge
        torch.sub(single[:, rows], product(taken[:, rows], back), out=whole[:, rows])
    if single.shape[-2] < single.shape[-1]:
        p = tail.factor(symmetric_product(whole, whole))
        torch.add(product(p, whole), product(wanted, back), out=whole)
    else:
        p = tail.factor(_gram(whole))
        for rows in _rows(single):
            torch.add(product(whole[:, rows], p), product(wanted[:, rows], back), out=whole[:, rows])
    energy = total_energy(whole)
    if not energy.isfinite().all():  # an inverse that isn't one
        return None
    norm = (total_energy(single) / energy).sqrt()  # that of the whole is preserved
    torch.mul(whole, norm[:, None, None].float(), out=out)
    if found.untouched is not None:
        out.copy_(torch.where(found.untouched[:, None, None], a, out))
    return found


def _gram(rest: Tensor) -> Tensor:
    """R^T R of (N, T, C): (N, C, C)."""
    total = rest.new_zeros(rest.shape[0], rest.shape[-1], rest.shape[-1])
    for rows in _rows(rest):
        columns = transposed(rest[:, rows])
        total += symmetric_product(columns, columns)
    return total


def _rows(a: Tensor) -> list[slice]:
    size = ROWS if a.device.type == "cpu" else a.shape[-2]
    return [slice(i, i + size) for i in range(0, a.shape[-2], size)]


def _coupling_errors(leading: Leading, gain: Tensor, tail: Tail) -> Tensor:
    """`Wanted.errors` where the vectors beyond those taken out (gain > 0) are reweighted too, with the rest.

    A vector that is slightly off couples to the rest with strength sigma_i ||r||. To first order (Daleckii and Krein)
    that changes A g(A^T A) by sigma_i^2 g[sigma_i^2, sigma_j^2] ||r||, at most max(g) ||r||, were all of r where g is
    largest. It never is: COUPLING of that was 1.4 to 30 times the error, over 194 filtered matrices. A vector that is
    not taken out although its sigma may be over the edge (|sigma_i - sigma| <= ||r||) counts as wholly wrong.
    """
    f, drift = gain * leading.sigma, leading.residual.norm(dim=-2)  # (N, b), (N, m)
    m = drift.shape[-1]
    off = COUPLING * tail.steepest * drift / f.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    over = leading.sigma[:, :m] + drift > tail.edge
    return torch.where(gain[:, :m] > 0, off, over.double())


def _undecided(leading: Leading, spec: SpectralFilter, energy: Tensor) -> Tensor:
    """Whether the true singular values may reach `keep_energy` at another rank: (N,) bool.

    Those found are too small, their squares by up to sigma^2 ||r||^2 / (sigma^2 - sigma_out^2), and rounded.
    """
    squares, m = leading.sigma.square(), leading.residual.shape[-1]
    known = squares[:, :m]
    rise = known / (known - leading.outside[:, None]).clamp_min(1e-30) * leading.residual.norm(dim=-2) ** 2
    most = torch.cat([known + rise, squares[:, m:]], -1).sqrt()
    fewest, greatest = (
        ranks(sigma, spec, r=sigma.shape[-1], energy=energy * (1 + rounding))
        for sigma, rounding in ((most, -ROUNDING), (leading.sigma, ROUNDING))
    )
    return fewest != greatest


def total_energy(single: Tensor) -> Tensor:
    """Sum of the squares of (N, T, C), float64 (N,): rows in float32, their sum in float64, within 1e-8 of exact."""
    return single.norm(dim=-1).double().square().sum(-1)


def _enough_of_exp(sigma: Tensor, energy: Tensor, alpha: float, tolerance: float) -> Tensor:
    """How many leading values leave out at most `tolerance` of the norm of sigma e^(alpha sigma): (N,)."""
    weight = torch.exp(alpha * (sigma - sigma[:, :1]))  # (N, b)
    after = (energy[:, None] - sigma.square().cumsum(-1)).clamp_min(0)  # (N, b) energy of the later ones
    dropped = weight * after.sqrt()  # at most
    return ((dropped > tolerance * (weight * sigma).norm(dim=-1, keepdim=True)).sum(-1) + 1).clamp_max(sigma.shape[-1])
