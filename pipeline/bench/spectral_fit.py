"""Fits the numbers of pipeline/spectral/recurrences.yaml: python -m svdstory.pipeline.bench.spectral_fit log PPIPP --edge 60

Least squares on scalars (scipy). What is minimised is the Frobenius error of the filtered matrix, relative to the norm
of one of rank 1024, over a spectrum like that of SDXL's keys (sigma_1 1600, sigma_10 200, sigma_100 20, sigma_500 3,
power laws between), with small penalties that keep float32's rounding small: on the numbers themselves, on all terms,
and on p where sigma is near 0, which is where the vectors that were taken out end up. Each try starts from no level and
adds one after the other.
"""

import argparse

import torch
import yaml
from scipy.optimize import least_squares
from torch import Tensor
from torch.nn.functional import pad

F = {"log": lambda s: s.clamp_min(1).log(), "log2": lambda s: s.clamp_min(1).log().square()}
RANKS, POINTS = 1280, 800
ON_NUMBERS, ON_TERMS, ON_P = 3e-6, 1e-6, 1e-4


def sdxl_spectrum(i: Tensor) -> Tensor:
    """sigma at (fractional) rank i, from 1, float64: straight between a few known ones on logarithmic axes."""
    known = torch.tensor([[1, 10, 100, 500, 1280], [1600, 200, 20, 3, 0.3]], dtype=i.dtype).log()
    piece = torch.bucketize(i.log(), known[0, 1:-1])
    slope = (known[1, 1:] - known[1, :-1]) / (known[0, 1:] - known[0, :-1])
    return (known[1, piece] + slope[piece] * (i.log() - known[0, piece])).exp()


class Fit:
    """Recurrences for f on [0, edge]: their parameters are log(shift), then the numbers level by level, then the total.

    levels: a letter each, P for a product of two combinations of all terms before it, I for the inverse of one.
    """

    def __init__(self, name: str, edge: float, generator: torch.Generator):
        self.generator = generator
        first = int((sdxl_spectrum(torch.arange(1, RANKS + 1.0)) > edge).sum()) + 0.5
        self.sigma = sdxl_spectrum(torch.linspace(first, RANKS, POINTS))
        self.f, self.near_zero = F[name](self.sigma), torch.linspace(0, 0.3, 12)
        self.weight = ((RANKS - first) / POINTS) ** 0.5 / F[name](sdxl_spectrum(torch.arange(1, 1025.0))).norm()

    def best(self, levels: str, tries: int) -> tuple[Tensor, float]:
        """The parameters and their relative error."""
        found = []
        for i in range(tries):
            p = torch.cat([torch.empty(1).uniform_(0.4, 3.7, generator=self.generator), torch.tensor([0.3, -0.3])])
            for n, level in enumerate(levels):
                p, _ = min(
                    (self.improved(self.extended(p, levels[:n], level), levels[: n + 1], 60) for _ in range(4)),
                    key=lambda one: one[1],
                )
            found.append(self.improved(p, levels, 400))
            print(f"try {i}: error {found[-1][1]:.2e}", flush=True)
        return min(found, key=lambda one: one[1])

    def extended(self, p: Tensor, levels: str, level: str) -> Tensor:
        """Parameters with one more level, at random, that counts nothing yet."""
        terms = len(levels) + 2
        new = 0.3 * torch.randn(2 * terms if level == "P" else terms, generator=self.generator)
        if level == "I":
            new = torch.cat([torch.tensor([2.0]), 0.3 * new[1:]])  # something that has an inverse
        p = torch.cat([p[:-terms], new, p[-terms:], torch.zeros(1)])
        return p + 1e-3 * torch.randn(p.shape, generator=self.generator)

    def improved(self, p: Tensor, levels: str, evaluations: int) -> tuple[Tensor, float]:
        jacobian = torch.func.jacfwd(self.residuals)
        found = least_squares(
            lambda x: self.residuals(torch.from_numpy(x), levels).numpy(),
            p.numpy(),
            x_scale="jac",
            jac=lambda x: jacobian(torch.from_numpy(x), levels).numpy(),
            max_nfev=evaluations,
        )
        p = torch.from_numpy(found.x)
        definite = all((numbers > 0).all() for numbers in self.inverted(p, levels))
        return p, float(self.residuals(p, levels)[:POINTS].norm()) if definite else torch.inf

    def inverted(self, p: Tensor, levels: str) -> list[Tensor]:
        """What each I inverts, at all sigma: a matrix has to be positive definite for that."""
        return [1 / x for x, level in zip(self.terms(p, levels)[2:], levels) if level == "I"]

    def terms(self, p: Tensor, levels: str) -> Tensor:
        """1, Y and what each level makes, at all sigma."""
        shift, chain, _ = split(p, levels)
        squares = torch.cat([self.sigma, self.near_zero]).square()
        x = torch.stack([torch.ones_like(squares), 1 - 2 * shift / (squares + shift)])
        for level in chain:
            first, *second = (numbers @ x for numbers in level)
            x = torch.cat([x, (first * second[0] if second else 1 / first)[None]])
        return x

    def residuals(self, p: Tensor, levels: str) -> Tensor:
        x = self.terms(p, levels)
        found = split(p, levels)[2] @ x
        return torch.cat(
            [
                (self.sigma * found[:POINTS] - self.f) * self.weight,
                ON_NUMBERS * p,
                ON_P * found[POINTS:],
                (ON_TERMS * x[2:]).flatten(),
            ]
        )


def split(p: Tensor, levels: str) -> tuple[Tensor, list[list[Tensor]], Tensor]:
    """shift; the numbers of each level, two vectors for P and one for I; total."""
    chain, at = [], 1
    for n, level in enumerate(levels):
        ends = [at + (n + 2) * (i + 1) for i in range(2 if level == "P" else 1)]
        chain.append([p[end - n - 2 : end] for end in ends])
        at = ends[-1]
    return p[0].exp(), chain, p[at:]


def normalised(p: Tensor, levels: str) -> dict:
    """As a Recurrence, of the same p, in fewer sums: a product's factors need no constants, which only add what came
    before to it, and of each side the largest number, the constant apart, is 1 (or -1, so that an inverse stays one of
    something positive)."""
    shift, chain, total = split(p, levels)
    old, out = torch.eye(2, dtype=p.dtype), []  # the terms, from the new ones
    for level in chain:
        sides = [numbers @ old for numbers in level]
        scales = [side[1:][side[1:].abs().argmax()] for side in sides]
        if len(sides) == 2:
            (a, b), scale = sides, scales[0] * scales[1]
            row = a[0] * b + b[0] * a
            row[0] -= a[0] * b[0]
            out.append([[0.0, *(side[1:] / by).tolist()] for side, by in zip(sides, scales)])
        else:
            row, by = 0 * sides[0], scales[0].abs()
            out.append([(sides[0] / by).tolist()])
            scale = 1 / by
        old = torch.cat([pad(old, (0, 1)), torch.cat([row, scale[None]])[None]])
    return {"shift": float(shift), "levels": out, "total": (total @ old).tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(F))
    parser.add_argument("levels", help="for example PPIPP: P multiplies, I inverts")
    for option, kind, default in (("edge", float, 60.0), ("tries", int, 10), ("seed", int, 0)):
        parser.add_argument(f"--{option}", type=kind, default=default)
    given = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    fit = Fit(given.name, given.edge, torch.Generator().manual_seed(given.seed))
    p, error = fit.best(given.levels, given.tries)
    if error == torch.inf:
        parser.exit(1, "every try ended with an inverse of something indefinite: more --tries, another --seed\n")
    entry = normalised(p, given.levels)
    print(
        f"# error {error:.2e}\n"
        + yaml.safe_dump({given.name: [entry]}, sort_keys=False, default_flow_style=None, width=118)
    )


if __name__ == "__main__":
    main()
