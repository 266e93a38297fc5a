"""What the numbers of a run say: means with intervals, paired differences to a baseline, tests corrected for number.

The unit of analysis is the prompt set: a set's seeds are averaged first, sets are what is resampled and tested. A
missing cell is never averaged away: a set that lacks one of its planned seeds is left out, and counted. No torch here.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 9999
NOTHING = 1e-9  # scores are stored with six decimals: differences below this are float's


@dataclass(frozen=True)
class Measurement:
    """One cell's number. `value` is None for a cell that is planned but has none; `cause` says why."""

    metric: str
    method: str
    set: str
    group: str  # good, bad, ...
    seed: int
    value: float | None
    cause: str = ""


@dataclass(frozen=True)
class Interval:
    """A mean and its bootstrap interval (BCa); the bounds are None for fewer than two sets."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Summary:
    """One method's mean over sets. `group`: "all" or one group of sets."""

    metric: str
    method: str
    group: str
    interval: Interval | None  # None where no set is complete
    sets: int  # complete ones, which the mean is over
    sets_left_out: int  # planned, but with missing cells
    cells: int  # numbers that the mean is made of
    cells_missing: int


@dataclass(frozen=True)
class Comparison:
    """A method against the baseline over the sets that are complete in both, seed by seed.

    p        two-sided Wilcoxon signed-rank test over sets; None where there is no set
    p_holm   p corrected (Holm) for the methods compared in this metric and group
    higher   sets in which the method's number is higher than the baseline's
    """

    metric: str
    method: str
    baseline: str
    group: str
    difference: Interval | None  # method - baseline
    p: float | None
    p_holm: float | None
    compared: int  # methods that p_holm is corrected for
    sets: int
    sets_left_out: int
    higher: int


def summarise(measurements: Iterable[Measurement], seed: int = 0) -> list[Summary]:
    """A Summary for each metric, method and group (and "all"), in the order of first appearance."""
    result, samples = [], []
    for (metric, method, group), cells in _by_group(measurements).items():
        complete = _complete_sets(cells)
        samples.append(np.array([np.mean(list(seeds.values())) for seeds in complete.values()]))
        result.append(
            Summary(
                metric,
                method,
                group,
                None,
                len(complete),
                len({cell.set for cell in cells}) - len(complete),
                sum(map(len, complete.values())),
                sum(cell.value is None for cell in cells),
            )
        )
    return [replace(s, interval=interval) for s, interval in zip(result, bootstrap(samples, seed), strict=True)]


def compare(measurements: Iterable[Measurement], baseline: str, seed: int = 0) -> list[Comparison]:
    """A Comparison to `baseline` for each metric, other method and group.

    Raises ValueError where the baseline has no measurements at all.
    """
    grouped = _by_group(measurements)
    methods = {method for _, method, _ in grouped}
    if baseline not in methods:
        raise ValueError(f"baseline {baseline!r} is not among the methods measured: {', '.join(sorted(methods))}")
    result, samples = [], []
    for (metric, method, group), cells in grouped.items():
        reference = grouped.get((metric, baseline, group))
        if method == baseline or reference is None:
            continue
        differences, left_out = paired_differences(cells, reference)
        samples.append(differences)
        result.append(
            Comparison(
                metric,
                method,
                baseline,
                group,
                None,
                wilcoxon(differences),
                None,
                0,
                len(differences),
                left_out,
                int((differences > 0).sum()),
            )
        )
    intervals = bootstrap(samples, seed)
    return _holm_by_family([replace(c, difference=i) for c, i in zip(result, intervals, strict=True)])


def paired_differences(cells: list[Measurement], reference: list[Measurement]) -> tuple[np.ndarray, int]:
    """One difference for each set that is complete in both, its seeds averaged; and how many sets are not."""
    ours, theirs = _complete_sets(cells), _complete_sets(reference)
    planned = {cell.set for cell in cells} | {cell.set for cell in reference}
    common = [s for s in ours if s in theirs and ours[s].keys() == theirs[s].keys()]
    differences = np.array([np.mean([ours[s][k] - theirs[s][k] for k in ours[s]]) for s in common])
    differences[np.abs(differences) < NOTHING] = 0
    return differences, len(planned) - len(common)


def excess(measurements: Iterable[Measurement], metric: str, reference: str, how: str) -> list[Measurement]:
    """`metric` relative to the `reference` method's cell of the same set and seed, as measurements of their own.

    how: "difference" (leakage: what is there beyond plain sampling) or "ratio" (layout: 1 = as diverse as plain
    sampling). A cell that lacks either number stays as a missing one, with its cause.
    """
    cells = [cell for cell in measurements if cell.metric == metric]
    plain = {(cell.set, cell.seed): cell for cell in cells if cell.method == reference}
    name = f"{metric} {'excess over' if how == 'difference' else 'relative to'} {reference}"
    result = []
    for cell in cells:
        other = plain.get((cell.set, cell.seed))
        value, cause = cell.value, cell.cause
        if cell.value is None or other is None or other.value is None:
            value, cause = None, cell.cause or f"{reference}: {other.cause if other else 'not planned'}"
        elif how == "difference":
            value = cell.value - other.value
        elif other.value == 0:
            value, cause = None, f"{reference}'s is 0"
        else:
            value = cell.value / other.value
        result.append(replace(cell, metric=name, value=value, cause=cause))
    return result


def bootstrap(samples: Sequence[np.ndarray], seed: int = 0) -> list[Interval | None]:
    """For each sample (n,): its mean with a BCa bootstrap interval; None for n = 0.

    Samples of the same n are resampled alike, so that an interval doesn't depend on what else is asked for.
    """
    found: list[Interval | None] = [_without_resampling(sample) for sample in samples]
    by_size = defaultdict(list)
    for index, sample in enumerate(samples):
        if len(sample) > 1 and np.ptp(sample) >= NOTHING:
            by_size[len(sample)].append(index)
    for size, indices in by_size.items():
        rows = max(1, 2**24 // (RESAMPLES * size))  # bounds memory: 2**24 numbers at once
        for start in range(0, len(indices), rows):
            some = indices[start : start + rows]
            bounds = _bca(np.stack([samples[index] for index in some]), np.random.default_rng([seed, size]))
            for index, low, high in zip(some, *bounds, strict=True):
                found[index] = Interval(found[index].mean, float(low), float(high))
    return found


def _without_resampling(sample: np.ndarray) -> Interval | None:
    """Of no values: nothing. Of one: no bounds. Of equal ones: an interval of no width (BCa would divide by zero)."""
    if len(sample) == 0:
        return None
    mean = float(np.mean(sample))
    return Interval(mean, None, None) if len(sample) < 2 else Interval(mean, mean, mean)


def _bca(samples: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(rows, n) -> lower and upper bounds (rows,), each row's values resampled by the same draws."""
    found = stats.bootstrap(
        (samples,),
        np.mean,
        axis=1,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="BCa",
        random_state=generator,
    ).confidence_interval
    return found.low, found.high


def wilcoxon(differences: np.ndarray) -> float | None:
    """Two-sided p of the signed-rank test over n differences; 1 where all are zero, None for n = 0.

    Zero differences are split between both signs (`zsplit`): dropping them would reward ties.
    """
    if len(differences) == 0:
        return None
    if not np.any(differences):
        return 1.0
    return float(stats.wilcoxon(differences, zero_method="zsplit", alternative="two-sided").pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979) of m p-values, in their order."""
    m, corrected, highest = len(p), [0.0] * len(p), 0.0
    for rank, index in enumerate(np.argsort(p, kind="stable")):
        highest = max(highest, min(1.0, (m - rank) * p[index]))
        corrected[index] = highest
    return corrected


def _holm_by_family(comparisons: list[Comparison]) -> list[Comparison]:
    """Corrects within each metric and group: the methods compared there are the family."""
    families = defaultdict(list)
    for index, comparison in enumerate(comparisons):
        if comparison.p is not None:
            families[comparison.metric, comparison.group].append(index)
    result = list(comparisons)
    for members in families.values():
        for index, corrected in zip(members, holm([comparisons[i].p for i in members]), strict=True):
            result[index] = replace(comparisons[index], p_holm=corrected, compared=len(members))
    return result


def _by_group(measurements: Iterable[Measurement]) -> dict[tuple[str, str, str], list[Measurement]]:
    """(metric, method, group) -> cells; each cell under "all" and under its own group."""
    grouped: dict[tuple[str, str, str], list[Measurement]] = {}
    for cell in measurements:
        for group in dict.fromkeys(("all", cell.group)):
            grouped.setdefault((cell.metric, cell.method, group), []).append(cell)
    return grouped


def _complete_sets(cells: Iterable[Measurement]) -> dict[str, dict[int, float]]:
    """Set -> seed -> value, of the sets in which no planned cell is missing."""
    by_set: dict[str, dict[int, float | None]] = {}
    for cell in cells:
        by_set.setdefault(cell.set, {})[cell.seed] = cell.value
    return {name: seeds for name, seeds in by_set.items() if None not in seeds.values()}
