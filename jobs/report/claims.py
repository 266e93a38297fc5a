"""What the report claims for SDXL, asked of a run: paired contrasts of two methods, set by set. No torch here."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Literal

import yaml

from svdstory.jobs.report.measurements import higher_is_better
from svdstory.jobs.report.statistics import Interval, Measurement, bootstrap, holm, paired_differences, wilcoxon
from svdstory.pipeline.config.strict import Strict, parse

ALPHA = 0.05


class Claim(Strict):
    """`method` is better, worse or the same as `than` on an axis; without `expected` an open question."""

    claim: str
    method: str
    than: str
    axis: Literal["consistency", "alignment", "leakage", "layout"]
    expected: Literal["better", "worse", "same"] | None = None


@dataclass(frozen=True)
class Answer:
    """What a run says of a claim.

    difference  mean over sets of method - than, with its bootstrap interval
    p_holm      Wilcoxon signed-rank test over sets, corrected (Holm) for all claims that the run can answer
    found       better, worse (both beyond chance) or same: no difference is shown
    """

    claim: Claim
    metric: str
    difference: Interval
    p_holm: float
    sets: int
    found: Literal["better", "worse", "same"]

    @property
    def verdict(self) -> str:
        """yes, no (the opposite is shown), not shown, not contradicted; of an open question what was found.

        Of fewer than six sets nothing: the test cannot tell them from chance.
        """
        if 0.5 ** (self.sets - 1) >= ALPHA:  # the least p that so many sets can give
            return "too few sets"
        if self.claim.expected is None:
            return {"same": "not shown"}.get(self.found, self.found)
        if self.claim.expected == "same" == self.found:
            return "not contradicted"  # few sets show no difference where there may be one
        if self.found == self.claim.expected:
            return "yes"
        return "not shown" if self.found == "same" else "no"


@lru_cache
def claims() -> tuple[Claim, ...]:
    """Those of claims.yaml."""
    text = resources.files(__package__).joinpath("claims.yaml").read_text(encoding="utf-8")
    return tuple(parse(Claim, entry, f"claims.yaml, entry {i + 1}") for i, entry in enumerate(yaml.safe_load(text)))


def answer(
    measurements: Iterable[Measurement], axes: dict[str, str], asked: Iterable[Claim] | None = None
) -> list[Answer]:
    """An answer to each claim whose methods were measured on the metric of its axis. axes: axis -> metric."""
    cells: dict[tuple[str, str], list[Measurement]] = {}
    for cell in measurements:
        cells.setdefault((cell.metric, cell.method), []).append(cell)
    found = []
    for claim in claims() if asked is None else asked:
        metric = axes.get(claim.axis, "")
        pair = cells.get((metric, claim.method)), cells.get((metric, claim.than))
        if all(pair):
            differences, _ = paired_differences(*pair)
            if len(differences):
                found.append((claim, metric, differences))
    intervals = bootstrap([differences for *_, differences in found])
    corrected = holm([wilcoxon(differences) for *_, differences in found])
    return [
        Answer(claim, metric, interval, p, len(differences), _direction(metric, interval.mean, p))
        for (claim, metric, differences), interval, p in zip(found, intervals, corrected, strict=True)
    ]


def _direction(metric: str, difference: float, p: float) -> Literal["better", "worse", "same"]:
    if p >= ALPHA or difference == 0:
        return "same"
    return "better" if (difference > 0) == higher_is_better(metric) else "worse"
