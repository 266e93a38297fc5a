"""The leading singular subspace of the anchors' matrices, warm-started from the step before.

A truncation keeps few of a matrix's singular values, so it needs few of its singular vectors: those of a block V that
begins as A^T U, U the left ones of the step before, and is improved by Rayleigh-Ritz on span[V, R],
R = A^T A V - V Sigma^2 its residuals (block Davidson without a preconditioner, equal to block Lanczos for the first two
rounds; Saad, Numerical Methods for Large Eigenvalue Problems, ch. 6 and 8). Each round costs two products of A with a
thin block. R costs nothing more, and says how good the block is: of the vector of sigma_i,
||r_i|| / (sigma_i^2 - sigma_out^2) is at most the sine of its angle to the true ones, sigma_out being the largest
singular value outside of the block.

Products in float32, all decisions and small decompositions in float64.
Symbols: N matrices, T tokens, C channels, b block columns.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDS = 8      # a warm start takes 1 to 3, a random one 2 to 5


@dataclass(frozen=True)
class Leading:
    """Approximate leading singular triplets, largest first."""

    sigma: Tensor      # (N, b) float64
    right: Tensor      # (N, C, b) float32, orthonormal columns v_i
    image: Tensor      # (N, T, b) float32, A v_i
    residual: Tensor   # (N, C, b) float32, A^T A v_i - sigma_i^2 v_i
    outside: Tensor    # (N,) float64, estimate of the largest squared singular value outside


@dataclass(frozen=True)
class Wanted:
    """What a filter wants of the leading singular values found so far."""

    gain: Tensor       # (N, b) float64, f(sigma) / sigma; zero where a vector is not used
    kept: Tensor       # (N,) int64, how many of them are used; b if more might be
    untouched: Tensor  # (N,) bool, the matrix stays as it is
    errors: Tensor     # (N, b) float64, what each vector adds in quadrature to the relative Frobenius error


def find(a: Tensor, start: Tensor, want: Callable[[Leading], Wanted], tolerance: float,
         ) -> tuple[Leading, Wanted, Tensor] | None:
    """Leading triplets of `a` (N, T, C) float32 that are good enough for what `want` makes of them.

    `start` (N, T, b): left vectors to begin from, the first block being A^T start; it grows where more is wanted, and
    what comes back with the triplets is the one to begin from at the next step. None where the tolerance isn't met or
    the block would be so large that an exact decomposition is cheaper. One host synchronisation a round.
    """
    leading = _project(a, _orthonormal((start.mT.to(a.dtype) @ a).mT), start.shape[-1])
    for _ in range(ROUNDS):
        wanted = want(leading)
        have = leading.sigma.shape[-1]
        loose = (wanted.errors > tolerance / (10 * have**0.5)) | (wanted.gain == 0)
        worst, most, locked = torch.stack([wanted.errors.norm(dim=-1).max(), wanted.kept.max().double(),
                                           loose.int().argmax(-1).min().double()]).tolist()
        if worst <= tolerance and most < have:
            return _first(leading, wanted, int(most))
        columns = max(have, block_size(int(most))) if most < have else 2 * have
        if columns > min(a.shape[-2:]) // 2 or not worst < float("inf"):
            return None
        leading = _improve(a, leading, int(locked), columns)
    return None


def _first(leading: Leading, wanted: Wanted, most: int) -> tuple[Leading, Wanted, Tensor]:
    """Only the vectors that are used; and the block for the next step."""
    used = Leading(leading.sigma[:, :most], leading.right[..., :most], leading.image[..., :most],
                   leading.residual[..., :most], leading.outside)
    wanted = Wanted(wanted.gain[:, :most], wanted.kept, wanted.untouched, wanted.errors[:, :most])
    left = leading.image / leading.sigma.clamp_min(1e-30)[:, None].float()
    return used, wanted, left[..., :block_size(most)]


def block_size(kept: int) -> int:
    """Columns for `kept` wanted ones: the more spare ones, the fewer rounds."""
    return kept + max(16, min(3 * kept // 4, 64))


def truncation_errors(leading: Leading, f: Tensor) -> Tensor:
    """`Wanted.errors` where the vectors beyond those that are used are dropped; f (N, b) are the filtered sigmas.

    An estimate from the vectors' angles to the true ones, within a factor of two in practice.
    """
    gap = (leading.sigma.square() - leading.outside[:, None]).clamp_min(1e-30)
    sine = (leading.residual.norm(dim=-2) / gap).clamp_max(1)                  # clamp keeps nan
    share = 2**0.5 * f * sine / f.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    return torch.where(f > 0, share, 0)


def random_block(a: Tensor, columns: int) -> Tensor:
    """A start for the first step: the same numbers for every matrix, layer, run and machine; (N, T, b)."""
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(a.shape[-2], columns, generator=generator)
    return block.to(a.device).expand(a.shape[0], -1, -1)


def _project(a: Tensor, basis: Tensor, columns: int) -> Leading:
    """Rayleigh-Ritz of A^T A on an orthonormal basis (N, C, m), m >= columns."""
    images = a @ basis                                                         # (N, T, m)
    wide = images.double()
    sigma, rotation, outside = _ritz(wide.mT @ wide, columns)
    return _leading(a, sigma, basis @ rotation, images @ rotation, outside)


def _ritz(projected: Tensor, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of B^T A^T A B (N, m, m): the leading sigma (N, b), their vectors (N, m, b), the next squared sigma (N,)."""
    squares, rotation = torch.linalg.eigh(projected)                           # ascending
    squares, rotation = squares.flip(-1).clamp_min(0), rotation.flip(-1)[..., :columns].float()
    return squares[:, :columns].sqrt(), rotation, squares[:, min(columns, squares.shape[-1] - 1)]


def _leading(a: Tensor, sigma: Tensor, right: Tensor, image: Tensor, outside: Tensor) -> Leading:
    residual = (image.mT @ a).mT - right * sigma.square()[:, None].float()     # (N, C, b)
    return Leading(sigma, right, image, residual, outside)


def _improve(a: Tensor, leading: Leading, locked: int, columns: int) -> Leading:
    """One round: Rayleigh-Ritz on the block and its residuals, made orthonormal.

    The residuals of the first `locked` vectors are left out: those are good enough, and theirs are rounding errors.
    What A^T A is on the block itself is known from the round before.
    """
    b = leading.sigma.shape[-1]
    new = _orthonormal(_apart(leading.residual[..., locked:], leading.right))
    new = _apart(new, leading.right)  # twice is enough (Kahan; Parlett, The Symmetric Eigenvalue Problem, 6-9)
    images = a @ new                                                           # (N, T, m)
    wide, across = images.double(), (leading.residual.mT @ new).double()       # V^T A^T A new = R^T new
    projected = torch.cat([torch.cat([leading.sigma.square().diag_embed(), across], -1),
                           torch.cat([across.mT, wide.mT @ wide], -1)], -2)
    sigma, rotation, outside = _ritz(projected, min(columns, projected.shape[-1]))
    right = leading.right @ rotation[:, :b] + new @ rotation[:, b:]
    image = leading.image @ rotation[:, :b] + images @ rotation[:, b:]
    return _leading(a, sigma, right, image, outside)


def _apart(block: Tensor, right: Tensor) -> Tensor:
    """The part of (N, C, b) that is orthogonal to the orthonormal columns `right`."""
    return block - right @ (right.mT @ block)


def _orthonormal(block: Tensor) -> Tensor:
    """An orthonormal basis of the columns of (N, C, b), zero columns where those depend on each other.

    By the eigenvectors of the columns' Gram matrix (SVQB; Stathopoulos and Wu 2002). The residuals of Ritz vectors of
    a Krylov space do depend on each other: they all lie in its next block. Directions of less than a thousandth of the
    largest are float32's noise.
    """
    wide = block.double()
    norms = wide.norm(dim=-2, keepdim=True).clamp_min(1e-30)                   # (N, 1, b)
    squares, vectors = torch.linalg.eigh(wide.mT @ wide / (norms.mT * norms))  # (N, b), (N, b, b)
    scale = torch.where(squares > 1e-6 * squares[:, -1:], squares.clamp_min(1e-30).rsqrt(), 0)
    return block @ (vectors * scale[:, None] / norms.mT).float()
