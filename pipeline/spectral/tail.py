"""log and log² of the many small singular values, after the leading vectors have been taken out.

What is left of A has singular values in [0, edge]. Without the large ones, float32 is enough for its Gram matrix and
that one's eigenvectors (`by_decomposition`). Products are faster (`by_products`), on a GPU by far:

    f(R) = p(G) R,   G = R R^T (or R p(G), G = R^T R, for tokens >= channels),   p(sigma^2) ~ f(sigma) / sigma

f has a kink at sigma = 1, a thousandth of the interval, which a plain polynomial resolves with a degree of hundreds.
So G is first mapped by Cayley's transform, Y = (G - c)(G + c)^-1, which spreads that neighbourhood out, and p is a
rational function of Y in few steps: each level multiplies two linear combinations of all levels before it, or inverts
one, which sharpens a kink more. The numbers are in tail.yaml, fitted by spectral_fit.py; how well they fit a
given spectrum, `misfit` tells, and the `cheapest` that fits well enough is used.

Symbols: N matrices, T tokens, C channels, r = min(T, C).
"""

import math
from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from typing import NamedTuple

import torch
import yaml
from torch import Tensor
from torch.nn.functional import normalize

from svdstory.pipeline.config.methods import SpectralFilter
from svdstory.pipeline.config.strict import Strict
from svdstory.pipeline.spectral.exact import reweighting
from svdstory.pipeline.spectral.products import product, symmetric_product, transposed
from svdstory.pipeline.spectral.threads import kept_memory

STEEPEST = {"log": 0.368, "log2": 0.541}  # the largest f(sigma) / sigma: 1 / e and 4 / e²
SMALL = 200  # matrices of fewer rows are inverted as a whole
DECOMPOSED = 80.0  # float32 leaves sigma = 1 uncertain by some 1e-4 next to this one,
DECOMPOSED_WITHIN = 2e-4  # and the filtered matrix by less than this


class Tail(NamedTuple):
    """A way to p(G), (N, r, r) float32, of matrices with singular values in [0, edge]."""

    edge: float
    steepest: float  # the largest f(sigma) / sigma
    factor: Callable[[Tensor], Tensor]  # p(G) of G, which it may overwrite


class Recurrence(Strict):
    """p as X_0 = I, X_1 = Y, X_(j+1) = L R or L^-1, p = T; L, R and T are sums of all X_k before, times these numbers."""

    edge: float  # valid for sigma in [0, edge]
    shift: float  # c of the Cayley transform
    levels: list[list[list[float]]]  # of L and R, or of L alone
    total: list[float]


def by_decomposition(spec: SpectralFilter) -> Tail:
    """From the eigenvectors of G."""

    def factor(g: Tensor) -> Tensor:
        squares, vectors = torch.linalg.eigh(g)  # (N, r), (N, r, r)
        gain = reweighting(squares.clamp_min(0).sqrt(), spec)
        return symmetric_product(vectors * gain[:, None], vectors.contiguous())

    return Tail(DECOMPOSED, STEEPEST[spec.reweight], factor)


def by_products(spec: SpectralFilter, by: Recurrence) -> Tail:
    """From products and inverses of G, as closely as the recurrence has it."""

    def factor(g: Tensor) -> Tensor:
        memory = [g, *kept_memory(g, len(by.levels) + 2)]  # g isn't needed after y
        _diagonal(g).add_(by.shift)
        y = inverse(g, out=memory[2]).mul_(-2 * by.shift)
        _diagonal(y).add_(1)  # 1 - 2c / (G + c)
        return _chain(y, by, symmetric_product, inverse, _diagonal, memory)

    return Tail(by.edge, STEEPEST[spec.reweight], factor)


def cheapest(sigma: Tensor, spec: SpectralFilter, most: float) -> tuple[Recurrence | None, float]:
    """The cheapest recurrence with a misfit of at most `most` on all of these spectra (N, r), and that misfit.

    None and infinity where there is none.
    """
    for by in recurrences(spec.reweight):
        wrong = float(misfit(sigma, spec, by).max())
        if wrong <= most:
            return by, wrong
    return None, math.inf


def misfit(sigma: Tensor, spec: SpectralFilter, by: Recurrence) -> Tensor:
    """Relative Frobenius error of a filtered matrix by `by_products`, from its singular values (N, r): (N,).

    0 where f leaves nothing: such a matrix is left as it is.
    """
    f = reweighting(sigma, spec) * sigma
    y = 1 - 2 * by.shift / (sigma.square() + by.shift)
    p = _chain(y, by, torch.mul, torch.reciprocal, diagonal=lambda x: x)
    found = torch.where((sigma <= by.edge) & f.any(-1, keepdim=True), sigma * p, f)
    return (normalize(found, dim=-1) - normalize(f, dim=-1)).norm(dim=-1)


@lru_cache
def recurrences(reweight: str) -> list[Recurrence]:
    """The fitted ones of `log` or `log2`, the cheapest first."""
    text = resources.files(__package__).joinpath("tail.yaml").read_text(encoding="utf-8")
    return [Recurrence(**one) for one in yaml.safe_load(text)[reweight]]


def inverse(g: Tensor, out: Tensor | None = None) -> Tensor:
    """G^-1 of symmetric positive definite (N, r, r), else nan: in halves, from products, until they are small. In `out`, if
    G is not small."""
    if g.shape[-1] < SMALL:
        factor, failed = torch.linalg.cholesky_ex(g)
        return torch.cholesky_inverse(factor).masked_fill_(failed[:, None, None] > 0, torch.nan)
    half = g.shape[-1] // 2
    first, below = inverse(g[..., :half, :half]), g[..., half:, :half].contiguous()  # of [A C^T; C S]
    across = product(below, first)  # C A^-1
    last = inverse(g[..., half:, half:] - product(across, below.mT))
    corner = product(last, across)
    beside = transposed(corner)
    out = torch.empty_like(g) if out is None else out
    torch.add(first, product(beside, across), out=out[..., :half, :half])
    torch.neg(corner, out=out[..., half:, :half])
    torch.neg(beside, out=out[..., :half, half:])
    out[..., half:, half:] = last
    return out


def _chain(
    y: Tensor,
    by: Recurrence,
    times: Callable,
    inverted: Callable,
    diagonal: Callable,
    memory: list[Tensor | None] | None = None,
) -> Tensor:
    """p, of a matrix or of numbers. diagonal(x): where to add a multiple of X_0 = I. memory: for L and later p, for R, for Y
    (the caller's) and for each level's term."""

    def combination(numbers: list[float], out: Tensor | None) -> Tensor:
        constant, *others = numbers
        first = others.index(1) if 1 in others else 0
        total = x[first] if others[first] == 1 else torch.mul(x[first], others[first], out=out)
        for k, number in enumerate(others):
            if k != first:
                total = torch.add(total, x[k], alpha=number, out=out)
        if constant:
            total = total.clone() if total is x[first] else total
            diagonal(total).add_(constant)
        return total

    x, memory = [y], memory or [None] * (len(by.levels) + 3)
    for level, out in zip(by.levels, memory[3:]):
        x.append((times if len(level) == 2 else inverted)(*map(combination, level, memory), out=out))
    return combination(by.total, memory[0])


def _diagonal(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1)
