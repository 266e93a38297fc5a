"""Functions of symmetric matrices (N, r, r) by batched products; Y has its eigenvalues in [-1, 1].

recurrence   X_0 = I, X_1 = Y, X_(j+1) = L R or L^-1, p(Y) = T; L, R and T are sums of all X_k before
polynomial   sum_n c_n T_n(Y), by Paterson and Stockmeyer: 2 T_im T_j = T_(im+j) + T_((i-1)m+m-j) regroups it into
             B_i = sum_j d_ij T_j, j < m, which Clenshaw's rule adds up in T_m
M^(1/2)      Newton and Schulz's coupled iteration Y <- Y F, Z <- F Z, F of ZY, with Polar Express's coefficients
             (arXiv 2505.16932): to 1e-9 for eigenvalues from 1e-6 to 1 of the largest
tr h(Y)      sum_n mu_n c_n, mu_n = mean z^T T_n(Y) z of random signs z, Jackson's kernel in the c_n (Weisse and others,
             Rev. Mod. Phys. 78, 275): within some per cent, tests/pipeline/test_spectral_functions.py
"""

import math
from collections.abc import Callable
from functools import lru_cache
from importlib import resources

import torch
import yaml
from torch import Tensor

from svdstory.pipeline.config.strict import Strict
from svdstory.pipeline.spectral.subspace import identity

POLAR = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    *[(1.875, -1.25, 0.375)] * 2,
)
PROBES, MOMENTS = 8, 40  # of a trace


class Recurrence(Strict):
    """The numbers of one, fitted by bench/spectral_fit.py to f(sigma) / sigma for sigma up to EDGE."""

    shift: float  # c of Cayley's transform Y = (D - c) (D + c)^-1
    levels: list[list[list[float]]]  # of L and R, or of L alone
    total: list[float]

    def of_matrix(self, y: Tensor) -> Tensor:
        return self._p([identity(y).expand_as(y), y], torch.matmul, inverse_in_halves)

    def of_numbers(self, y: Tensor) -> Tensor:
        return self._p([torch.ones_like(y), y], torch.mul, torch.reciprocal)

    def _p(self, x: list[Tensor], times: Callable, inverted: Callable) -> Tensor:
        def combined(numbers: list[float]) -> Tensor:
            (number, term), *others = ((number, term) for number, term in zip(numbers, x) if number)
            total = number * term
            for number, term in others:
                total.add_(term, alpha=number)
            return total

        for level in self.levels:
            x.append((times if len(level) == 2 else inverted)(*map(combined, level)))
        return combined(self.total)


@lru_cache
def recurrences(name: str) -> list[Recurrence]:
    """The fitted ones of `log` or `log2`, the cheapest first."""
    text = resources.files(__package__).joinpath("recurrences.yaml").read_text(encoding="utf-8")
    return [Recurrence(**one) for one in yaml.safe_load(text)[name]]


def nodes(count: int, device: torch.device) -> Tensor:
    """Chebyshev's, from 1 to -1: (count,) float64."""
    return torch.cos((torch.arange(count, dtype=torch.float64, device=device) + 0.5) * math.pi / count)


def interpolant(values: Tensor) -> Tensor:
    """Coefficients of the polynomial with these values (..., n) at `nodes`."""
    n, at = values.shape[-1], torch.arange(values.shape[-1], dtype=torch.float64, device=values.device)
    cosines = torch.cos(at[:, None] * (at + 0.5) * math.pi / n)  # T_i at node j
    return values @ (cosines * torch.where(at > 0, 2 / n, 1 / n)[:, None]).mT


def polynomial(c: Tensor, y: Tensor, m: int = 8) -> Tensor:
    """sum_n c_n T_n(Y) of c (N or 1, groups m) and Y."""
    terms = [identity(y).expand_as(y), y]
    for j in range(2, m + 1):
        terms.append(2 * terms[j // 2] @ terms[j - j // 2] - terms[j % 2])
    d = c.unflatten(-1, (-1, m)).clone()
    for i in range(d.shape[-2] - 1, 0, -1):
        d[..., i - 1, 1:] -= d[..., i, 1:].flip(-1)
        d[..., i, 1:] *= 2
    b = (d.to(y.dtype) @ torch.stack(terms[:m], 1).flatten(2)).unflatten(-1, y.shape[-2:])  # (N, groups, r, r)
    now, before = b[:, -1], torch.zeros_like(y)
    for i in range(b.shape[1] - 2, 0, -1):
        now, before = b[:, i] + 2 * terms[m] @ now - before, now
    return b[:, 0] + terms[m] @ now - before


def square_roots(m: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """M^(1/2) and M^(-1/2) of eigenvalues up to `most` (N, 1, 1)."""
    scale, one = 1.01 * most, identity(m)
    y, z = m / scale, one.expand_as(m)
    for first, third, fifth in POLAR:
        zy = z @ y
        f = first * one + third * zy + fifth * (zy @ zy)
        y, z = y @ f, f @ z
    return scale.sqrt() * y, z / scale.sqrt()


def inverse_in_halves(g: Tensor) -> Tensor:
    """G^-1 of [A C^T; C S] positive definite, by products until it is small: large factors are slow in batches."""
    if g.shape[-1] <= 160:
        return torch.cholesky_inverse(torch.linalg.cholesky_ex(g).L)
    half, out = g.shape[-1] // 2, torch.empty_like(g)
    first, below = inverse_in_halves(g[..., :half, :half]), g[..., half:, :half]
    across = below @ first
    last = inverse_in_halves(g[..., half:, half:] - across @ below.mT)
    corner = last @ across
    out[..., :half, :half], out[..., :half, half:] = torch.baddbmm(first, across.mT, corner), -corner.mT
    out[..., half:, :half], out[..., half:, half:] = -corner, last
    return out


@lru_cache
def signs(r: int, device: torch.device) -> Tensor:
    return (2.0 * torch.randint(0, 2, (r, PROBES), generator=torch.Generator().manual_seed(1)) - 1).to(device)


def traces(h: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """tr h(Y) (N,), h given at MOMENTS nodes, over what the PROBES columns of z (N, r, PROBES) stand for."""
    n, at = MOMENTS, torch.arange(MOMENTS, dtype=torch.float64, device=y.device)
    angle = math.pi / (n + 1)
    kernel = ((n - at + 1) * torch.cos(at * angle) + torch.sin(at * angle) / math.tan(angle)) / (n + 1)
    before, now = z, y @ z
    moments = [(z * z).sum((-2, -1)), (z * now).sum((-2, -1))]
    for _ in range(n // 2 - 1):  # 2 T_m^2 = T_2m + T_0,  2 T_m T_(m+1) = T_(2m+1) + T_1
        before, now = now, 2 * (y @ now) - before
        moments += [2 * (before**2).sum((-2, -1)) - moments[0], 2 * (before * now).sum((-2, -1)) - moments[1]]
    return (torch.stack(moments, -1) * kernel * interpolant(h)).sum(-1).clamp_min(0) / PROBES
