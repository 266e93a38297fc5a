"""The leading singular vectors of the anchors' matrices, warm-started from the step before.

A truncation keeps few of a matrix's singular values, so it needs few of its singular vectors. With U the left ones of
the step before, the first block is V = A^T U. A round improves it by Rayleigh-Ritz on span[V, R] (block Davidson without
a preconditioner, in the first round equal to block Lanczos; Saad, Numerical Methods for Large Eigenvalue Problems, ch.
6 and 8), R = A^T A V - V Sigma^2 being the residuals of those that are wanted and not good enough yet; the block holds
some more, without which the last ones converge slowly. Residuals also say how good the vectors are: ||r_i|| / (sigma_i^2
- sigma_out^2) is at most the sine of v_i's angle to the true ones, sigma_out being the largest singular value outside.
u_i = A v_i / sigma_i is better by sigma_out / sigma_i, and the truncated matrix is U diag(f / sigma) U^T A, for which
A^T U is at hand.

A warm start mostly takes one round: five products of A with a thin block in all. The block shrinks and grows with what
the drift from step to step demands. Products in float32, decisions and small decompositions in float64.
Symbols: N matrices, T tokens, C channels, b block columns, m columns whose residuals are known.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from svdstory.pipeline.spectral.exact import checked
from svdstory.pipeline.spectral.products import product

ROUNDS = 8  # a warm start takes 1 or 2, a random one 2 to 4
STEP = 8  # columns by which a block grows or shrinks
AHEAD = 4  # residuals are computed of so many more than were wanted last


class Start(NamedTuple):
    """Where to begin."""

    left: Tensor  # (N, T, b), of the matrices' own dtype between steps
    kept: int  # the first of these were wanted


class Leading(NamedTuple):
    """Approximate leading singular triplets, largest first."""

    sigma: Tensor  # (N, b) float64
    right: Tensor  # (N, C, b) float32, orthonormal columns v_i
    left: Tensor  # (N, T, b) float32, u_i = A v_i / sigma_i, orthonormal too
    back: Tensor  # (N, C, m) float32, A^T u_i
    residual: Tensor  # (N, C, m) float32, A^T u_i - sigma_i v_i
    outside: Tensor  # (N,) float64, estimate of the largest squared singular value outside


class Wanted(NamedTuple):
    """What a filter wants of the leading singular values found so far."""

    gain: Tensor  # (N, b) float64, f(sigma) / sigma; zero where a vector is not used
    kept: Tensor  # (N,) int64, how many of them are used; b if more might be
    untouched: Tensor  # (N,) bool, the matrix stays as it is
    errors: Tensor  # (N, m) float64, what each vector adds in quadrature to the relative Frobenius error


class Found(NamedTuple):
    """The k vectors that are used, and where to begin at the next step."""

    left: Tensor  # (N, T, k) float32
    back: Tensor  # (N, C, k) float32, A^T left
    gain: Tensor  # (N, k) float64
    untouched: Tensor | None  # (N,) bool, which matrices stay as they are; None if none does
    start: Start


def find(a: Tensor, start: Start, want: Callable[[Leading], Wanted], tolerance: float, settled: float) -> Found | None:
    """Leading triplets of `a` (N, T, C) float32 that are good enough for what `want` makes of them.

    settled: that share of the wanted ones, the largest, is likely to be good enough after A^T U.
    None where the tolerance isn't met or the block would be so large that an exact decomposition is cheaper. A GPU waits
    for the host three times in the first round, at the small decompositions and the decisions.
    Raises FloatingPointError if `a` holds inf or nan.
    """
    columns = start.left.shape[-1]
    front = front_size(start.kept, columns)
    right = _orthonormal(_back(a, start.left.to(a.dtype)))  # (N, C, b)
    image = product(a, right)  # (N, T, b)
    squared = _gram(image)  # (N, b, b)
    slow = slice(int(settled * start.kept), front)
    residual = _back(a, image[..., slow]) - product(right, squared[..., slow].float())
    for i in range(ROUNDS):
        leading = _improve(a, right, image, squared, residual, columns, front, passed_over=0 if i else columns // 4)
        wanted = want(leading)
        columns = leading.sigma.shape[-1]
        loose = (wanted.errors > tolerance / (10 * columns**0.5)) | (wanted.gain[:, :front] == 0)
        worst, *counts = torch.stack(
            [
                wanted.errors.norm(dim=-1).max(),
                wanted.kept.max().double(),
                loose.int().argmax(-1).min().double(),
                wanted.untouched.sum().double(),
            ]
        ).tolist()
        most, locked, untouched = map(int, counts)
        if worst <= tolerance and most <= front and most + STEP <= columns:
            fewer = columns - STEP if i == 0 and worst < tolerance / 3 else columns
            block = leading.left[..., : max(fewer, block_size(most))]
            return Found(
                leading.left[..., :most],
                leading.back[..., :most],
                wanted.gain[:, :most],
                wanted.untouched if untouched else None,
                Start(block, most),
            )
        scale = leading.sigma[:, None].float()
        right, image, squared = leading.right, leading.left * scale, leading.sigma.square().diag_embed()
        residual = (leading.residual * scale[..., :front])[..., locked:]  # the first are good enough: rounding
        residual = _without(right, residual)  # of small ones much is rounding too, and that isn't orthogonal to V
        columns = max(columns + STEP, block_size(most)) if most < columns else 2 * columns
        front = front_size(most, columns)
        if columns > min(a.shape[-2:]) // 2 or not worst < torch.inf:
            return None
    return None


def block_size(kept: int) -> int:
    """The fewest columns to begin with for `kept` wanted ones, a multiple of STEP."""
    return -(-(kept + STEP + AHEAD) // STEP) * STEP


def front_size(kept: int, columns: int) -> int:
    """How many residuals to compute."""
    return min(max(kept + AHEAD, 3 * columns // 4), columns)


def truncation_errors(leading: Leading, f: Tensor) -> Tensor:
    """`Wanted.errors` where the vectors beyond those that are used are dropped; f (N, b) are the filtered sigmas.

    An estimate of how far a used vector leans over to those outside the block, and of how far it and a dropped vector of
    the block are turned into each other: u_i^T A A^T u_j is r_i^T r_j rather than zero, which matters where they have
    nearly the same sigma. 1.2 to 3.4 times the error, over 582 filtered matrices of flat to steep spectra
    (tests/pipeline/test_spectral_bank.py has some of them).
    """
    m = leading.residual.shape[-1]
    overlap = (leading.residual.mT @ leading.residual).double()  # (N, m, m)
    f, squares = f[:, :m], leading.sigma[:, :m].square()
    gap = (squares - leading.outside[:, None]).clamp_min(1e-30)  # (N, m)
    sine = (leading.outside.sqrt()[:, None] * overlap.diagonal(dim1=-2, dim2=-1).sqrt() / gap).clamp_max(1)  # nan stays
    apart = (squares[:, :, None] - squares[:, None]).clamp_min(1e-30)  # (N, m, m) of used i and dropped j
    turn = (overlap.abs() * (squares / gap)[:, None] / apart).clamp_max(1)
    turn = torch.where(f[:, None] > 0, 0, turn).norm(dim=-1)  # (N, m)
    share = f * (2.5 * sine).hypot(2**0.5 * turn) / f.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    return torch.where(f > 0, share, 0)


def random_start(a: Tensor, columns: int) -> Start:
    """For the first step: the same numbers for every matrix, layer, run and machine."""
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(a.shape[-2], columns, generator=generator)
    return Start(block.to(a.device).expand(a.shape[0], -1, -1), columns)


def _improve(
    a: Tensor,
    right: Tensor,
    image: Tensor,
    squared: Tensor,
    residual: Tensor,
    columns: int,
    front: int,
    passed_over: int,
) -> Leading:
    """Rayleigh-Ritz of A^T A on the orthonormal block V = `right` (N, C, b) and residuals, made orthonormal.

    image, squared: A V and V^T A^T A V (float64). The triplets have `columns` columns and `front` residuals, or fewer: the
    last quarter of the Ritz values is too poor to be among them, or to stand for what is outside. That is the first one
    beyond the triplets but for `passed_over`: in the first round it lies further out; later, the vectors that the round
    before dropped are next to the block.
    """
    b = right.shape[-1]
    new = _without(
        right, _orthonormal(residual)
    )  # twice is enough (Kahan; Parlett, The Symmetric Eigenvalue Problem, 6-9)
    images = product(a, new)  # (N, T, m)
    across = image.double().mT @ images.double()
    projected = torch.cat([torch.cat([squared, across], -1), torch.cat([across.mT, _gram(images)], -1)], -2)
    squares, rotation = _eigh(projected)  # ascending
    columns = min(columns, 3 * squares.shape[-1] // 4 // STEP * STEP)
    squares, rotation = squares.flip(-1).clamp_min(0), rotation.flip(-1)[..., :columns].float()
    rank = (squares > 1e-10 * squares[:, :1]).sum(-1, keepdim=True)  # (N, 1): less than b + m if some were noise
    outside = squares.gather(-1, (3 * rank // 4).clamp_max(columns + passed_over)).squeeze(-1)
    sigma = squares[:, :columns].sqrt()
    right = product(right, rotation[:, :b]) + product(new, rotation[:, b:])
    left = (product(image, rotation[:, :b]) + product(images, rotation[:, b:])) / sigma.clamp_min(1e-30)[
        :, None
    ].float()
    back = _back(a, left[..., :front])  # (N, C, front)
    return Leading(sigma, right, left, back, back - right[..., :front] * sigma[:, None, :front].float(), outside)


def _back(a: Tensor, left: Tensor) -> Tensor:
    """A^T L of (N, T, C) and (N, T, b), (N, C, b)."""
    return product(left.mT, a).mT


def _without(right: Tensor, block: Tensor) -> Tensor:
    """(N, C, m), with what lies in the span of the orthonormal `right` (N, C, b) taken out."""
    return block - product(right, product(right.mT, block))


def _gram(block: Tensor) -> Tensor:
    """B^T B of (N, C, b), float64."""
    wide = block.double()
    return wide.mT @ wide


def _eigh(small: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and vectors of (N, p, p), on the CPU: a matrix of 50 to 150 columns takes it 0.1 to 1 ms.

    A GPU's take some 2 ms each in torch up to 2.11, one by one (github.com/pytorch/pytorch/issues/174674).
    """
    squares, vectors = checked(torch.linalg.eigh, small.cpu())
    return squares.to(small.device), vectors.to(small.device)


def _orthonormal(block: Tensor) -> Tensor:
    """The orthonormal basis of the columns of (N, C, b) that is nearest to them (Löwdin): their order is kept.

    By the eigenvectors of the columns' Gram matrix. Columns do depend on each other where these are residuals of a
    Krylov space, which all lie in its next block. Directions of less than a thousandth of the largest are float32's
    noise and left out: B then is Q P^T with fewer orthonormal columns Q than P^T has, and Rayleigh-Ritz on it finds what
    it finds on Q, and zeros.
    """
    wide = block.double()
    norms = wide.norm(dim=-2, keepdim=True).clamp_min(1e-30)  # (N, 1, b)
    squares, vectors = _eigh(wide.mT @ wide / (norms.mT * norms))  # (N, b), (N, b, b)
    scale = torch.where(squares > 1e-6 * squares[:, -1:], squares.clamp_min(1e-30).rsqrt(), 0)
    return product(block, ((vectors * scale[:, None]) @ vectors.mT / norms.mT).float())
