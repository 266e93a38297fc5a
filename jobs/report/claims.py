"""What the report claims for SDXL, asked of a run: paired contrasts of two methods, set by set. No torch here."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Literal

import yaml

from svdstory.jobs.report.measurements import higher_is_better
from svdstory.jobs.report.statistics import Interval, Measurement, bootstrap, holm, paired_differences, wilcoxon
from svdstory.pipeline.config.named_methods import without_injection
from svdstory.pipeline.config.strict import Strict, parse

ALPHA = 0.05
Axis = Literal["consistency", "alignment", "leakage", "layout", "reference"]


class Claim(Strict):
    """`method` is better, worse or the same as `than` on an axis; without `expected` an open question.

    group: of the prompt sets that it is asked of; empty: of all.
    """

    claim: str
    method: str
    than: str
    axis: Axis
    expected: Literal["better", "worse", "same"] | None = None
    group: str = ""


class ClaimEntry(Strict):
    """An entry of claims.yaml: a claim, or several of one kind.

    groups: it is asked of each of these groups of sets apart; of a run that has none of them, of all its sets.
    twins: it is asked again without feature injection (`name-no-injection`).
    """

    claim: str
    method: str
    than: str
    axis: Axis
    expected: Literal["better", "worse", "same"] | None = None
    groups: tuple[str, ...] = ()
    twins: bool = False

    def claims(self, present: Collection[str]) -> Iterator[Claim]:
        """Of a run with these groups of sets."""
        for twin in (False, True) if self.twins else (False,):
            methods = [without_injection(m) if twin else m for m in (self.method, self.than)]
            said = self.claim + (", no injection" if twin else "")
            for group in [g for g in self.groups if g in present] or [""]:
                told = f"{said} ({group} sets)" if group else said
                yield Claim(
                    claim=told, method=methods[0], than=methods[1], axis=self.axis, expected=self.expected, group=group
                )


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


def claims(groups: Collection[str] = ()) -> list[Claim]:
    """Those of claims.yaml, as they are asked of a run whose prompt sets are of these groups."""
    return [claim for entry in _entries() for claim in entry.claims(groups)]


@lru_cache
def _entries() -> tuple[ClaimEntry, ...]:
    text = resources.files(__package__).joinpath("claims.yaml").read_text(encoding="utf-8")
    return tuple(
        parse(ClaimEntry, entry, f"claims.yaml, entry {i + 1}") for i, entry in enumerate(yaml.safe_load(text))
    )


def answer(
    measurements: Iterable[Measurement], axes: dict[str, str], asked: Iterable[Claim] | None = None
) -> list[Answer]:
    """An answer to each claim whose methods were measured on the metric of its axis. axes: axis -> metric."""
    cells: dict[tuple[str, str, str], list[Measurement]] = {}
    for cell in measurements:
        for group in {"", cell.group}:
            cells.setdefault((cell.metric, cell.method, group), []).append(cell)
    found = []
    for claim in claims({group for *_, group in cells}) if asked is None else asked:
        metric = axes.get(claim.axis, "")
        pair = cells.get((metric, claim.method, claim.group)), cells.get((metric, claim.than, claim.group))
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
