"""Fits the numbers of spectral_tail.yaml: python -m svdstory.pipeline.spectral_fit log --levels 6 --edge 40 --shift 3

Levenberg-Marquardt on scalars. What is minimised is the relative Frobenius error of the filtered matrix, over a
spectrum like that of SDXL's keys (sigma_1 1600, sigma_10 200, sigma_100 20, sigma_500 3, power laws between), with
small penalties that keep float32's rounding small: on the numbers themselves, and on all terms where sigma is near 0,
which is where the vectors that were taken out end up. It starts from fewer levels, one more at a time.
"""

import argparse

import torch
import yaml
from torch import Tensor

F = {"log": lambda s: s.clamp_min(1).log(), "log2": lambda s: s.clamp_min(1).log().square()}
ON_NUMBERS, ON_TERMS, ON_P = 3e-6, 1e-5, 1e-4


def fit(name: str, levels: int, edge: float, shift: float, tries: int = 5, seed: int = 0) -> tuple[Tensor, float]:
    """The parameters, left and right of each level and then the total, and their relative error."""
    torch.manual_seed(seed)
    p = torch.tensor([0.0, 1.0, -0.5, 1.0, 0.0, 0.0, 0.0])   # one level
    for level in range(1, levels + 1):
        candidates = []
        for _ in range(tries):
            start = p if level == 1 else _one_more(p, level)
            candidates.append(_improve(start + 1e-3 * torch.randn_like(start), level, name, edge, shift))
        p, error = min(candidates, key=lambda c: c[1])
        print(f"{name}: {level} levels, error {error:.2e}", flush=True)
    return p, error


def _one_more(p: Tensor, level: int) -> Tensor:
    head, total = p[:-(level + 1)], p[-(level + 1):]
    return torch.cat([head, 0.3 * torch.randn(2 * (level + 1)), total, torch.zeros(1)])


def terms(p: Tensor, levels: int, sigma: Tensor, shift: float) -> tuple[list[Tensor], Tensor]:
    """All X_j at the given sigma, and p(sigma^2)."""
    squares, at = sigma.square(), 0
    x = [torch.ones_like(sigma), (squares - shift) / (squares + shift)]
    for level in range(1, levels + 1):
        n = level + 1
        left, right, at = p[at:at + n], p[at + n:at + 2 * n], at + 2 * n
        x.append(sum(c * t for c, t in zip(left, x)) * sum(c * t for c, t in zip(right, x)))
    return x, sum(c * t for c, t in zip(p[at:], x))


def sdxl_spectrum(i: Tensor) -> Tensor:
    """sigma at (fractional) rank i, from 1, float64: straight between a few known ones on logarithmic axes."""
    known = torch.tensor([[1, 10, 100, 500, 1280], [1600, 200, 20, 3, 0.3]], dtype=i.dtype).log()
    piece = torch.bucketize(i.log(), known[0, 1:-1])
    slope = (known[1, 1:] - known[1, :-1]) / (known[0, 1:] - known[0, :-1])
    return (known[1, piece] + slope[piece] * (i.log() - known[0, piece])).exp()


def _improve(p: Tensor, levels: int, name: str, edge: float, shift: float) -> tuple[Tensor, float]:
    first = int((sdxl_spectrum(torch.arange(1, 1281.0)) > edge).sum()) + 0.5
    grid = sdxl_spectrum(torch.linspace(first, 1280, 3000))
    weight = ((1280 - first) / 3000) ** 0.5 / F[name](sdxl_spectrum(torch.arange(1, 1025.0))).norm()
    near_zero, f = torch.linspace(0, 0.35, 25), F[name](grid)

    def residuals(p: Tensor) -> Tensor:
        x, low = terms(p, levels, near_zero, shift)
        return torch.cat([(grid * terms(p, levels, grid, shift)[1] - f) * weight, ON_NUMBERS * p, ON_P * low,
                          *[ON_TERMS * t for t in x[2:]]])

    damping, r = 1e-2, residuals(p)
    for _ in range(250):
        jacobian = torch.func.jacfwd(residuals)(p)
        normal, slope = jacobian.T @ jacobian, jacobian.T @ r
        for _ in range(8):
            step = torch.linalg.solve(normal + damping * torch.diag(normal.diagonal() + 1e-12), -slope)
            new = residuals(p + step)
            if new.square().sum() < r.square().sum():
                break
            damping *= 4
        else:
            break
        p, r, damping = p + step, new, max(damping / 6, 1e-14)
    return p, float(r[:3000].norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(F))
    for option, kind, default in (("levels", int, 6), ("edge", float, 40.0), ("shift", float, 3.0)):
        parser.add_argument(f"--{option}", type=kind, default=default)
    given = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    p, _ = fit(given.name, given.levels, given.edge, given.shift)
    left, right, at = [], [], 0
    for n in range(2, given.levels + 2):
        left, right, at = left + [p[at:at + n].tolist()], right + [p[at + n:at + 2 * n].tolist()], at + 2 * n
    entry = {"edge": given.edge, "shift": given.shift, "left": left, "right": right,
             "total": p[at:].tolist()}
    print(yaml.safe_dump({given.name: entry}, sort_keys=False, default_flow_style=None, width=118))


if __name__ == "__main__":
    main()
