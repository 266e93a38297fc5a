"""Two runs of the same cells: which metrics moved, by how much, with intervals.

A cell is a set, a method and a seed. Numbers are compared where both runs have them under one protocol; the unit of
analysis is the prompt set, as everywhere (statistics.py).
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from svdstory.jobs.report.cells import read_study
from svdstory.jobs.report.findings import better
from svdstory.jobs.report.statistics import Comparison, compare, holm, summarise
from svdstory.jobs.study.merge import SETTING
from svdstory.jobs.study.plan import Plan
from svdstory.pipeline.config.strict import InputError

ONE, OTHER = "one", "other"


@dataclass(frozen=True)
class Move:
    """One method's number by one metric in both runs: the means, and the other run's minus the one's."""

    metric: str
    method: str
    means: tuple[float, float]
    comparison: Comparison

    @property
    def verdict(self) -> str:
        """better, worse or higher, lower where the interval leaves out 0; else `no difference seen`."""
        found = self.comparison.difference
        if found.low is None:
            return "one set: no interval"
        if found.low <= 0 <= found.high:
            return "no difference seen"
        return "better" if (found.mean > 0) == (better(self.metric) > 0) else "worse"

    @property
    def line(self) -> str:
        found = self.comparison.difference
        bounds = "" if found.low is None else f" [{found.low:+.4f}, {found.high:+.4f}]"
        p = "" if self.comparison.p_holm is None else f", p {self.comparison.p_holm:.3g}"
        return (
            f"{self.metric}, {self.method}: {self.means[0]:.4f} -> {self.means[1]:.4f}, {found.mean:+.4f}{bounds}, "
            f"{self.comparison.sets} sets{p}: {self.verdict}"
        )


@dataclass(frozen=True)
class RunComparison:
    """cells: in both plans; alike: of them, those that are the very same unit. differing: settings, one a line."""

    cells: int
    alike: int
    differing: tuple[str, ...]
    moves: tuple[Move, ...]
    left_out: tuple[str, ...]  # metrics that cannot be compared, and why

    @property
    def moved(self) -> list[Move]:
        return [move for move in self.moves if move.verdict in ("better", "worse")]

    def text(self) -> str:
        still = len(self.moves) - len(self.moved)
        lines = [f"{self.cells} cells in both, {self.alike} of them the same unit", *self.differing]
        lines += [move.line for move in self.moved]
        lines += [f"{still} of {len(self.moves)} numbers show no difference (a metric of a method is one)"]
        return "\n".join([*lines, *self.left_out])


def compare_runs(one: Path, other: Path) -> RunComparison:
    """Raises InputError where a folder is no run, or the two have no cell in common."""
    studies = {ONE: read_study(one), OTHER: read_study(other)}
    plans = [study.plan for study in studies.values()]
    keys = [{(c.set, c.method, c.seed): c.key for c in plan.cells} for plan in plans]
    common = keys[0].keys() & keys[1].keys()
    if not common:
        raise InputError(f"{one} and {other}: no cell (set, method, seed) is in both plans. Compare runs of one study.")
    protocols = [study.measured.protocols for study in studies.values()]
    metrics = [
        metric for metric in protocols[0] if protocols[0][metric] and protocols[0][metric] == protocols[1].get(metric)
    ]
    cells = defaultdict(list)
    for run, study in studies.items():
        for cell in study.measured.cells:
            if cell.metric in metrics and (cell.set, cell.method, cell.seed) in common:
                cells[cell.metric, cell.method].append(replace(cell, method=run, group="all"))
    moves = [_move(*place, both) for place, both in cells.items()]
    return RunComparison(
        len(common),
        sum(keys[0][place] == keys[1][place] for place in common),
        tuple(_differing(*plans)),
        tuple(_corrected([move for move in moves if move])),
        tuple(_left_out(protocols, metrics)),
    )


def _move(metric: str, method: str, cells: list) -> Move | None:
    """None where no set is complete in both runs."""
    (found,) = compare(cells, ONE)
    if found.difference is None:
        return None
    means = {s.method: s.interval.mean for s in summarise(cells) if s.interval}
    return Move(metric, method, (means[ONE], means[OTHER]), found)


def _corrected(moves: list[Move]) -> list[Move]:
    """p corrected (Holm) for the methods that one metric was asked about."""
    result = list(moves)
    for metric in dict.fromkeys(move.metric for move in moves):
        family = [i for i, move in enumerate(moves) if move.metric == metric]
        for i, p in zip(family, holm([moves[i].comparison.p for i in family])):
            result[i] = replace(moves[i], comparison=replace(moves[i].comparison, p_holm=p, compared=len(family)))
    return result


def _differing(one: Plan, other: Plan) -> list[str]:
    """What differs between the plans beside their sets and methods."""
    facts = [
        {"model": f"{p.model.name} ({p.model.dtype})", **{k: getattr(p, k) for k in SETTING}} for p in (one, other)
    ]
    lines = [f"{key}: {facts[0][key]} -> {facts[1][key]}" for key in facts[0] if facts[0][key] != facts[1][key]]
    for what in ("sets", "methods"):
        ours, theirs = getattr(one, what), getattr(other, what)
        changed = [n for n in ours if n in theirs and _pixels(ours[n]) != _pixels(theirs[n])]
        lines += [f"{what} of one name but other content: {', '.join(changed)}"] if changed else []
    return lines


def _pixels(one) -> dict:
    return one.content() if hasattr(one, "content") else one.switches()


def _left_out(protocols: list[dict[str, dict]], metrics: list[str]) -> list[str]:
    found = []
    for metric in dict.fromkeys([*protocols[0], *protocols[1]]):
        if metric not in metrics:
            both = protocols[0].get(metric) and protocols[1].get(metric)
            found.append(
                f"{metric}: not compared, {'measured under two protocols' if both else 'not measured in both'}"
            )
    return found
