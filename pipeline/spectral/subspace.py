"""The leading left singular vectors of the anchors' matrices, by products alone: nothing waits for the host.

State from step to step: Q, orthonormal, and o, the smallest eigenvalue of Q^T A A^T Q, about sigma_b^2.

    1. R times, x_j = cos^2((2j + 1) pi / 4R):  Q <- orth(A A^T Q - x_j o Q). These are Chebyshev's roots on [0, o]: what lies
       outside the block shrinks as fast as degree R can make it. At first 3 rounds without shifts, then 8.
    2. B = A^T Q, S = B^T B
    3. X, the projector onto the k leading eigenvectors of S, by purification (SP2; Niklasson, Phys. Rev. B 66, 155115):
       X = I - mu (S + mu I)^-1, mu about lambda_k; 56 times X <- 2X - X^2 if tr X < k, else X^2
    4. A^ = Q G B^T, G = X for truncation, or what fast.py makes of it
    5. F = A B - Q S, W = X (X (S - 0.8 o) X + tr(S) (I - X))^-1 X, R = G S G and L = X - X^2:
       e^2 = (tr(F^T F W R W) + 4 tr(L R L)) / ||A^||^2, error < 2e

Error, R = 3 (6 at a layer's first steps), matrices that turn by 10 % a step, k of 512 x 640: 1e-6 on SDXL's steep spectra,
6e-4 on flat ones (30 i^-0.3, k = 52), of which e was 0.5 to 2 times; at 5 and 2 %, 3e-4 and 1e-4. Products with A are
float32, what is b x b float64. results/benchmarks/spectral-cpu.md has SDXL's shapes.
Symbols: N matrices of r rows and c columns, r <= c; b block columns, k of them wanted.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

State = tuple[Tensor, Tensor]  # Q (N, r, b) in float16, which is enough, and o (N, 1, 1)


class Block(NamedTuple):
    """The leading subspace of A (N, r, c)."""

    a: Tensor
    q: Tensor  # (N, r, b) float32, orthonormal columns
    image: Tensor  # (N, c, b) float32, B
    small: Tensor  # (N, b, b) float64, S
    floor: Tensor  # (N, 1, 1) float64, o
    size: Tensor  # (N, 1, 1) float64, ||S||: a little more than sigma_1^2


def block_size(k: int, r: int) -> int:
    """Columns for k wanted ones. From two thirds of the rows on the block is all of them: nothing is left to be found."""
    b = -(-(k + max(32, k // 2)) // 16) * 16
    return b if 3 * b < 2 * r else r


def leading(a: Tensor, state: State | None, columns: int, rounds: int) -> Block:
    """Steps 1 and 2 of `a` (N, r, c) float32."""
    n, r, _ = a.shape
    if columns == r:
        q = torch.eye(r, device=a.device).expand(n, -1, -1)
    elif state is None:  # the same numbers for every matrix, layer, run and machine
        q = torch.randn(r, columns, generator=torch.Generator().manual_seed(0)).to(a.device)
        q = iterated(a, q.expand(n, -1, -1), torch.zeros(n, 1, 1, device=a.device), 3)
        q = iterated(a, q, lowest(gram(a.mT @ q)), max(8, rounds))
    else:
        q = iterated(a, state[0].float(), state[1], rounds)
    image = a.mT @ q
    small = gram(image)
    return Block(a, q, image, small, lowest(small), small.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-30))


def iterated(a: Tensor, q: Tensor, floor: Tensor, rounds: int) -> Tensor:
    """Q after step 1. The basis of Z is Z L^-T, L L^T = Z^T Z; its first columns span what Z's first do."""
    for j in range(rounds):
        shift = math.cos((2 * j + 1) * math.pi / (4 * rounds)) ** 2 * floor.float()
        z = a @ (a.mT @ q) - shift * q
        q = torch.linalg.solve_triangular(cholesky(gram(z)).mT.float(), z, upper=True, left=False)
    return q


def gram(z: Tensor) -> Tensor:
    """Z^T Z of (N, m, b), float64."""
    return z.double().mT @ z.double()


def cholesky(g: Tensor) -> Tensor:
    """L of G (N, b, b) float64, singular or not; no error, which would have to wait for the device."""
    return torch.linalg.cholesky_ex(g + (1e-14 * trace(g) + 1e-30) * identity(g)).L


def inverse(g: Tensor) -> Tensor:
    return torch.cholesky_inverse(cholesky(g))


def lowest(small: Tensor) -> Tensor:
    """About the smallest eigenvalue of (N, b, b): (N, 1, 1)."""
    return cholesky(small).diagonal(dim1=-2, dim2=-1).square().amin(-1)[:, None, None]


def trace(matrices: Tensor) -> Tensor:
    """(N, b, b) -> (N, 1, 1)"""
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]


def largest(m: Tensor) -> Tensor:
    """Little more than the largest eigenvalue of (N, b, b), (N, 1, 1): the norm of its 8th power."""
    for _ in range(3):
        m = m @ m
    return m.norm(dim=(-2, -1), keepdim=True) ** 0.125


def identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)


def projector(small: Tensor, k: Tensor) -> Tensor:
    """X of S (N, b, b) for ranks k (N,) int64: step 3. From 60 times on rounding, which doubles each time, is seen."""
    levels = small.diagonal(dim1=-2, dim2=-1).sort(descending=True).values
    mu = levels.gather(-1, k[:, None] - 1)[:, None].clamp_min(1e-30)
    x, k = identity(small) - mu * inverse(small + mu * identity(small)), k[:, None, None]
    for _ in range(56):
        x = torch.lerp(x @ x, x, torch.where(trace(x) < k, 2.0, 0.0).to(x.dtype))
    return x


def estimate(block: Block, x: Tensor, floor: Tensor | float, result: Tensor, norm: Tensor) -> Tensor:
    """Step 5's 2e (N,), from R = `result` (N, b, b) and ||A^||^2 = `norm` (N, 1, 1)."""
    off, partly = gram(block.a @ block.image - block.q @ block.small.float()), x - x @ x
    shifted = block.small - 0.8 * floor * identity(x)
    w = x @ inverse(x @ shifted @ x + trace(block.small) * (identity(x) - x)) @ x
    squared = (off * (w @ result @ w)).sum((-2, -1), True) + 4 * trace(partly @ result @ partly)
    return 2 * (squared.clamp_min(0) / norm.clamp_min(1e-300)).sqrt().flatten()
