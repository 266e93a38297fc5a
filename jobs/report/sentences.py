"""What a run shows, in sentences for people who know no statistics; the numbers stand behind each in brackets.

The same in the words of statistics is in verdicts.py. A sentence never says more than its test carries.
"""

import re
from collections import Counter
from dataclasses import dataclass

from svdstory.jobs.report.cells import Study, is_random
from svdstory.jobs.report.findings import Findings, better
from svdstory.jobs.report.labels import metric_label, plain_label
from svdstory.jobs.report.statistics import Comparison
from svdstory.jobs.report.tables.table_files import groups_of, told
from svdstory.jobs.report.verdicts import ALPHA

ENOUGH = 6  # sets: of fewer, Wilcoxon's test cannot tell any difference from chance
SAME = (  # identity distance is a scale of its own: below -> what the pictures of a set show
    (0.4, "draws nearly one and the same subject"),
    (0.75, "draws a subject that stays only half the same"),
    (float("inf"), "draws a new one nearly each time"),
)
BETTER = {  # axis -> what a method does better, worse, or not differently than another
    "consistency": ("keeps the subject more alike than", "keeps the subject less alike than"),
    "alignment": ("fits its prompts better than", "fits its prompts less well than"),
    "leakage": ("keeps its backgrounds apart better than", "lets its backgrounds run into one another more than"),
    "layout": ("varies its compositions more than", "varies its compositions less than"),
}
UNSURE = {
    "alignment": "follow the prompts better or worse",
    "leakage": "keep backgrounds apart better or worse",
    "layout": "vary compositions more or less",
}


@dataclass(frozen=True)
class Sentence:
    """numbers: the means behind it. detail: the comparison as statistics tell it, for a tooltip."""

    text: str
    numbers: str = ""
    detail: str = ""


def sentences(study: Study, findings: Findings) -> list[Sentence]:
    """The subject first: the baseline beside plain SDXL, then what comes nearest or beats it; then what that costs."""
    axes = {a: m for a, m in findings.axes.items() if not is_random(study.measured.protocols.get(m, {}))}
    if not findings.axes:
        return [Sentence("Nothing is measured yet: svdstory score RUN, then svdstory reduce RUN.")]
    found = []
    if len(axes) < len(findings.axes):
        found.append(Sentence("Numbers of networks with random weights mean nothing: nothing is said of them here."))
    if "consistency" in axes:
        groups = [g for g in groups_of(study) if g != "all"]
        sizes = Counter(s.group for s in study.plan.sets.values())
        groups = groups if groups and all(sizes[g] >= ENOUGH for g in groups) else ["all"]
        found += [beside_plain(findings), *(nearest_or_better(study, findings, group) for group in groups)]
    costs = {axis: surely(study, findings, axis) for axis in UNSURE if axis in axes}
    found += [*costs.values(), unsure(study, findings, [axis for axis, said in costs.items() if said is None])]
    return [sentence for sentence in found if sentence]


def caveat(study: Study) -> str:
    """What must be known of all sentences: whether there are enough sets to tell anything from chance."""
    sets = len(study.plan.sets)
    if sets >= ENOUGH:
        return ""
    return f"{_sets(sets)} {'is' if sets == 1 else 'are'} too few to rule out chance: it takes {ENOUGH} at least."


def beside_plain(findings: Findings) -> Sentence | None:
    """The baseline's subject beside that of plain SDXL, where both are there."""
    versus = findings.versus(findings.axes["consistency"], "sdxl")
    if versus is None or versus.difference is None:
        return None
    return _pair(findings, "consistency", findings.baseline, "sdxl", versus, -1)


def nearest_or_better(study: Study, findings: Findings, group: str) -> Sentence | None:
    """Which other method keeps the subject best, beside the baseline."""
    metric, baseline = findings.axes["consistency"], findings.baseline
    others = [m for m in study.plan.methods if m not in ("sdxl", baseline)]
    compared = {m: v for m in others if (v := findings.versus(metric, m, group)) and v.difference}
    if not compared:
        return None
    best = max(compared, key=lambda m: compared[m].difference.mean * better(metric))
    versus, where = compared[best], "" if group == "all" else f"On the {group} sets: "
    if versus.difference.mean * better(metric) > 0:
        return _pair(findings, "consistency", best, baseline, versus, 1, where)
    text = f"{where}No other method keeps the subject more alike; {plain_label(best)} comes nearest."
    return Sentence(text, _numbers(findings, metric, best, baseline, group), _detail(versus))


def surely(study: Study, findings: Findings, axis: str) -> Sentence | None:
    """Which method is worse than the baseline on an axis beyond chance, or else better; None if none is."""
    metric, baseline = findings.axes[axis], findings.baseline
    compared = {m: v for m in study.plan.methods if (v := findings.versus(metric, m)) and v.difference}
    gains = {m: v.difference.mean * better(metric) for m, v in compared.items() if _is_sure(v)}
    if not gains:
        return None
    alike = {m: gain for m, gain in gains.items() if gain < 0} or gains
    chosen = max(alike, key=lambda m: abs(alike[m]))
    sentence, more = _pair(findings, axis, chosen, baseline, compared[chosen], 1), len(alike) - 1
    so_do = f"; so {'does' if more == 1 else 'do'} {more} more of {len(compared)} methods" if more else ""
    return Sentence(f"{sentence.text[:-1]}{so_do}.", sentence.numbers, sentence.detail)


def unsure(study: Study, findings: Findings, axes: list[str]) -> Sentence | None:
    """That nothing is shown on these axes, and between which numbers the methods lie."""
    means = {
        findings.axes[axis]: [i.mean for m in study.plan.methods if (i := findings.mean(findings.axes[axis], m))]
        for axis in axes
        if any(findings.versus(findings.axes[axis], m) for m in study.plan.methods)
    }
    if not means:
        return None
    what, sets = ", or ".join(UNSURE[axis] for axis in axes), len(study.plan.sets)
    text = f"No method is shown to {what} than {plain_label(findings.baseline)}."
    if sets < ENOUGH:
        text = f"Whether some {what} than {plain_label(findings.baseline)}, {_sets(sets)} cannot tell."
    ranges = [
        f"{metric_label(metric, capital=False)} {_number(min(numbers))} to {_number(max(numbers))}"
        for metric, numbers in means.items()
    ]
    return Sentence(text, "; ".join(ranges))


def _pair(
    findings: Findings, axis: str, one: str, other: str, versus: Comparison, sign: int, where: str = ""
) -> Sentence:
    """`one` beside `other`. sign: 1 where the comparison's difference is one - other, -1 for the reverse."""
    metric, group = findings.axes[axis], versus.group
    gain = sign * versus.difference.mean * better(metric)
    phrases = [_absolute(metric, findings.mean(metric, m, group).mean) for m in (one, other)]
    if gain > 0 and all(phrases) and phrases[0] != phrases[1]:
        text = f"{plain_label(one)} {phrases[0]}; {plain_label(other)} {phrases[1]}"
    else:
        text = f"{plain_label(one)} {BETTER[axis][gain <= 0]} {plain_label(other)}"
    chance = "" if _is_sure(versus) or versus.sets < ENOUGH else ", but that may be chance"
    text = f"{where}{text}{chance}."
    return Sentence(re.sub("^plain", "Plain", text), _numbers(findings, metric, one, other, group), _detail(versus))


def _absolute(metric: str, value: float) -> str:
    return next(phrase for bound, phrase in SAME if value < bound) if metric == "identity_distance" else ""


def _numbers(findings: Findings, metric: str, one: str, other: str, group: str = "all") -> str:
    ours, theirs = (findings.mean(metric, m, group).mean for m in (one, other))
    return f"{metric_label(metric, capital=False)} {_number(ours)} against {_number(theirs)}"


def _sets(n: int) -> str:
    return f"{n} prompt set{'' if n == 1 else 's'}"


def _number(value: float) -> str:
    digits = 2 if abs(value) >= 0.095 else 3
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def _is_sure(versus: Comparison) -> bool:
    return versus.p_holm is not None and versus.p_holm < ALPHA


def _detail(versus: Comparison) -> str:
    """`plain SDXL − ConsiStory: +0.609 [+0.608, +0.611], Holm-corrected p = 0.0015, n = 12`"""
    p = "" if versus.p_holm is None else f", Holm-corrected p = {versus.p_holm:.2g}"
    difference = told(versus.difference, "+").replace("-", "−")
    return f"{plain_label(versus.method)} − {plain_label(versus.baseline)}: {difference}{p}, n = {versus.sets}"
