"""The spectral filter by products, from a leading block (subspace.py, whose symbols these are) and what is left of A.

Truncated to k, or with the k largest clipped, A^ follows from the block alone:

    truncation    G = X,  A^ = Q G B^T
    reweighting   M = X S X + ||S|| (I - X),  H = M^(1/4),  G = p(H) X,  p(t) ~ f(t^2) / t^2 by Chebyshev's nodes
    clip k        l = tr((X_(k+1) - X_k) S) = sigma_(k+1)^2,  M = X_k S X_k / l + I - X_k,  G = (M^(-1/2) - I) X_k,
                  A^ = A + Q G B^T, or Q (X + G) B^T with truncation

and where the whole spectrum is reweighted (log, log2, power, a mild exp), after the block's vectors are taken out:

    E = A - Q X B^T,  D = E E^T,  Y = (D - c) (D + c)^-1,  A^ = Q G B^T + p(Y) E,  p ~ f / sigma

p being a fitted recurrence, or a polynomial. Then A^ gets the norm of what is kept. To subspace.py's error this adds p's,
tr(h(Y))^(1/2) / ||A^|| with h = (sigma p - f)^2, and vectors that lean couple to E by COUPLING max(f / sigma) ||F S^(-1/2)||.
Measured: results/benchmarks/spectral-cpu.md; tests/pipeline/test_spectral_bank.py over steep and flat spectra.
"""

import torch
from torch import Tensor

from svdstory.pipeline.config.methods import SpectralFilter
from svdstory.pipeline.spectral import functions, subspace
from svdstory.pipeline.spectral.exact import checked, fixed_rank, reweighting
from svdstory.pipeline.spectral.functions import Recurrence, interpolant, nodes, square_roots
from svdstory.pipeline.spectral.subspace import Block, State, block_size, identity, largest, leading, projector, trace

EDGE = 62.0  # recurrences are fitted up to 60
DROPPED = 1e-4  # of the norm of sigma e^(alpha sigma) by a truncation
COUPLING = 0.2  # of the largest error that a vector's residual allows; 1.4 to 30 times the error was seen

Way = tuple[int, Recurrence | int | None]  # rounds for the block; a recurrence or a polynomial's degree for the rest


def ways(spec: SpectralFilter) -> list[Way]:
    """The fast paths for a filter, the cheapest first. None for `keep`, which needs the whole spectrum."""
    if spec.truncates or spec.clip is not None:
        return [] if spec.keep is not None else [(3, None), (8, None)]
    if spec.reweight == "exp":
        return [(3, None), (2, 63)]  # as many vectors as matter, if these are few
    if spec.power is not None:
        return [(2, 63), (2, 127)]
    return [*((2, one) for one in functions.recurrences(spec.reweight)), (2, 127)]


def wanted_rank(spec: SpectralFilter, r: int) -> int | None:
    """How many leading vectors a filter without a tail wants, where that is known beforehand."""
    if spec.truncates:
        return fixed_rank(spec, r)
    return spec.clip


def fast_filter(a: Tensor, spec: SpectralFilter, way: Way, state: State | None, early: bool):
    """Filter (N, T, C) of any float dtype. early: the matrices move more than later in the pass.

    Returns the filtered ones in that dtype, the state for the next step, estimates of their relative Frobenius errors
    (N,), on the device and hardly ever too small, and which matrices want a larger rank than a block should have.
    """
    single = a.float()
    wide = a.shape[-2] <= a.shape[-1]
    m = single if wide else single.mT  # (N, r, c)
    r, (rounds, tail), far, beyond = m.shape[-2], way, None, []
    rounds *= 2 if early else 1
    energy = total_energy(single)
    k = wanted_rank(spec, r) if tail is None else min(96 if isinstance(tail, int) else 48, r // 4)
    if k is None:
        block, ks, far, beyond = adaptive(m, spec, state, rounds, energy)
    else:
        block = leading(m, state, block_size(max(k, (spec.clip or 0) + 1), r), rounds)
        ks = torch.full((len(a),), k, device=a.device)
    x, g, good = gains_of(block, ks, spec)
    changed, kept = g @ block.small @ g.mT, trace(x @ block.small) if spec.truncates else energy
    if tail is None and (spec.clip is None or spec.truncates):  # Q G B^T alone
        after = trace(changed)
        g, floor, misfit = g * factor(spec, kept, after), block.floor, 0 if spec.truncates else DROPPED**2 * after
        out = product(block, g, wide)
    else:
        out, floor, misfit = product(block, g, wide), block.floor, 0
        if tail is None:
            out += single
        else:
            rest = single - product(block, x, wide)  # E, or its transpose
            p, misfit, steepest, fits = gains_of_rest(block, x, rest if wide else rest.mT, spec, tail)
            out, floor, good = torch.baddbmm(out, *((p, rest) if wide else (rest, p))), 0, good & fits
            changed = COUPLING**2 * (changed + steepest**2 * block.small)
        after = total_energy(out)
        out *= factor(spec, kept, after).float()
    error = subspace.estimate(block, x, floor, changed, after)
    error = (error.square() + (1.5 * misfit / after.clamp_min(1e-300)).flatten()).sqrt()
    if far is not None:
        good = good & (error.square() < 4 * far)
    if spec.reweight in ("log", "log2"):  # where nothing is left, as it was
        out.addcmul_(single, (after == 0).float())
    return out.to(a.dtype), (block.q.half(), block.floor), torch.where(good, error, torch.inf), beyond


def product(block: Block, g: Tensor, wide: bool) -> Tensor:
    """Q G B^T, or its transpose, as A was given."""
    g = g.float()
    return block.q @ (g @ block.image.mT) if wide else block.image @ (block.q @ g).mT


def total_energy(a: Tensor) -> Tensor:
    """||A||^2 of (N, T, C): (N, 1, 1) float64."""
    return a.norm(dim=-1).double().square().sum(-1)[:, None, None]


def factor(spec: SpectralFilter, kept: Tensor, after: Tensor) -> Tensor:
    """What gives A^ the norm of what is kept, (N, 1, 1)."""
    if not (spec.rescale and spec.reweights):
        return torch.ones_like(after)
    return torch.where(after > 0, (kept / after.clamp_min(1e-300)).sqrt(), 1)


def adaptive(a: Tensor, spec: SpectralFilter, state: State | None, rounds: int, energy: Tensor):
    """The block, k (N,), its distance from where k would change (N,), and who wants too much: one wait for the host."""
    r = a.shape[-2]
    columns = block_size((spec.clip or 0) + 1, r) if state is None else state[0].shape[-1]
    while True:
        block = leading(a, state, columns, rounds)
        host = torch.cat([block.small.flatten(1), energy.flatten(1)], 1).cpu()
        squares = checked(torch.linalg.eigvalsh, host[:, :-1].unflatten(-1, (columns, columns))).flip(-1).clamp_min(0)
        k, far = enough(squares, host[:, -1:], spec)
        most = max([n for n in k.tolist() if n <= r // 3], default=0)
        if most + max(16, most // 4) <= columns:
            beyond = [i for i, much in enumerate(((k > r // 3) | (far < 1e-6)).tolist()) if much]
            return block, k.clamp_max(columns).to(a.device, non_blocking=True), far.to(a.device), beyond
        columns, state = block_size(most * 5 // 4, r), None


def enough(squares: Tensor, total: Tensor, spec: SpectralFilter) -> tuple[Tensor, Tensor]:
    """k (N,) of leading sigma^2 (N, b), and how far the energy is from where k would change. 2b if b are not enough.

    keep_energy: the fewest with E(k) > q. exp: all but DROPPED of the norm.
    """
    held = squares.cumsum(-1) / total.clamp_min(1e-300)  # E
    if spec.keep_energy is not None:
        short, far = held <= spec.keep_energy, (held - spec.keep_energy).abs().amin(-1)
    else:
        sigma = squares.sqrt()
        weight, after = reweighting(sigma, spec, sigma[:, :1]), ((1 - held).clamp_min(1e-7) * total).sqrt()
        short = weight * after > DROPPED * (weight * sigma).norm(dim=-1, keepdim=True)
        far = torch.full_like(total[:, 0], torch.inf)
    k, b = short.sum(-1) + 1, squares.shape[-1]
    return torch.where(k > b, 2 * b, k), far


def gains_of(block: Block, k: Tensor, spec: SpectralFilter) -> tuple[Tensor, Tensor, Tensor]:
    """X and G (N, b, b) float64, and where they can be relied on (N,) bool."""
    s, size, one = block.small, block.size, identity(block.small)
    if spec.clip is not None:
        clip = torch.full_like(k, spec.clip)
        x, low, high = projector(s.repeat(3, 1, 1), torch.cat([k, clip, clip + 1])).chunk(3)
        level = trace((high - low) @ s)
        top = torch.where((k < clip)[:, None, None], x, low)
        scaled = top @ s @ top / level.maximum(1e-6 * size) + one - top
        g = (square_roots(scaled, scaled.norm(dim=(-2, -1), keepdim=True))[1] - one) @ top
        return x, x + g if spec.truncates else g, (level > 1e-6 * size).flatten()
    x = projector(s, k)
    if not spec.reweights:
        return x, x, torch.ones_like(k, dtype=torch.bool)
    bounded = x @ s @ x + size * (one - x)
    least, most = 1 / largest(subspace.inverse(bounded)), 1.02 * size  # what is kept lies between
    quarter, _ = square_roots(square_roots(bounded, size)[0], size.sqrt())
    middle, radius = (most**0.25 + least**0.25) / 2, (most**0.25 - least**0.25) / 2
    t = (middle + radius * nodes(64, s.device))[:, 0]  # (N, 64)
    c = interpolant(reweighting(t.square(), spec, most[:, 0].sqrt()))
    g = functions.polynomial(c, (quarter - middle * one) / radius) @ x
    return x, g, (least > (1e-6 * size).clamp_min(float(spec.reweight in ("log", "log2")))).flatten()


def gains_of_rest(block: Block, x: Tensor, e: Tensor, spec: SpectralFilter, tail: Recurrence | int):
    """p(Y) (N, r, r) of E (N, r, c), tr h(Y) and the largest f(sigma) / sigma (N, 1, 1), where p may be used (N,) bool."""
    device, top = x.device, (1.02 * block.size[:, 0]).sqrt()
    most = largest((identity(x) - x) @ block.small)  # little more than sigma_(k+1)^2
    falling = spec.power is not None and spec.power < 1  # f / sigma, which then is steepest at 0, else at the other end
    if isinstance(tail, Recurrence):
        shift = torch.full_like(most, tail.shift)
    else:
        shift = torch.full_like(most, 4.0) if spec.reweight in ("log", "log2") else most / (100 if falling else 4)

    def f(y: Tensor) -> tuple[Tensor, Tensor]:
        sigma = (shift[:, 0] * (1 + y) / (1 - y)).minimum(4 * most[:, 0]).sqrt()  # nothing lies beyond sigma_(k+1)
        return sigma, reweighting(sigma, spec, top)

    d, c = e @ e.mT, shift.float()
    y = identity(d) - 2 * c * functions.inverse_in_halves(d + c * identity(d))
    at = nodes(functions.MOMENTS, device).minimum(((most - shift) / (most + shift))[:, 0])  # (N, MOMENTS)
    if isinstance(tail, Recurrence):
        p, found = tail.of_matrix(y), tail.of_numbers(at)
    else:
        numbers = interpolant(f(nodes(tail + 1, device))[1])
        angles = torch.arange(tail + 1, device=device)[:, None] * at.arccos()[:, None]  # (N, degree + 1, MOMENTS)
        p, found = functions.polynomial(numbers, y), (numbers[:, None] @ angles.cos())[:, 0]
    sigma, right = f(at)
    z = functions.signs(y.shape[-1], device)
    z = z - block.q @ (x.float() @ (block.q.mT @ z))
    misfit = functions.traces((sigma * (found - right)).square(), y, z)[:, None, None]
    some = most.sqrt()[:, 0] * torch.exp(-torch.arange(8, device=device) / 2)  # (N, 8)
    return (
        p,
        misfit,
        reweighting(some, spec, top).amax(-1)[:, None, None],
        (most < EDGE**2).flatten() | (not isinstance(tail, Recurrence)),
    )
