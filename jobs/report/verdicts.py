"""What a reader should take home, in sentences that the statistics carry and that say so where they don't."""

from svdstory.jobs.report.cells import Study, is_random
from svdstory.jobs.report.findings import Findings, better
from svdstory.jobs.report.labels import method_label, metric_label
from svdstory.jobs.report.tables.table_files import groups_of, told

ALPHA = 0.05


def verdicts(study: Study, findings: Findings) -> list[str]:
    """For each group of sets the most consistent method against the baseline; what alignment and leakage paid."""
    if not findings.axes:
        return ["Nothing is scored yet: svdstory score RUN, then reduce again."]
    random = [metric_label(m) for m in findings.axes.values() if is_random(study.measured.protocols.get(m, {}))]
    found = [f"Random weights: {', '.join(random)}. What is said of it here means nothing."] if random else []
    if "consistency" in findings.axes:
        groups = [g for g in groups_of(study) if g != "all"] or ["all"]
        found += [text for group in groups if (text := most_consistent(study, findings, group))]
    found += [
        text for axis in ("alignment", "leakage") if axis in findings.axes if (text := price(study, findings, axis))
    ]
    return found


def most_consistent(study: Study, findings: Findings, group: str) -> str:
    """By the paired difference: means may be over different sets where cells are missing."""
    metric, baseline = findings.axes["consistency"], findings.baseline
    gains = {
        m: v.difference.mean * better(metric)
        for m in study.plan.methods
        if (v := findings.versus(metric, m, group)) and v.difference
    }
    if not gains:
        return ""
    best = max(gains, key=gains.get)
    where = "Over all sets" if group == "all" else f"On the {group} sets"
    name = method_label(baseline)
    if gains[best] <= 0:
        return f"{where} nothing is more consistent than {name}{_told(findings, metric, baseline, group)}."
    versus = findings.versus(metric, best, group)
    sure = versus.p_holm is not None and versus.p_holm < ALPHA
    beyond = "beyond chance" if sure else f"but {_sets(versus.sets)} do not show it beyond chance"
    return (
        f"{where} {method_label(best)} is the most consistent{_told(findings, metric, best, group)}; {name} has "
        f"{findings.mean(metric, baseline, group).mean:.3f}. The difference is {_difference(versus)}, {beyond}."
    )


def price(study: Study, findings: Findings, axis: str) -> str:
    """How many methods are significantly worse or better than the baseline on this axis, over all sets."""
    metric = findings.axes[axis]
    compared = [(m, v) for m in study.plan.methods if (v := findings.versus(metric, m)) and v.difference]
    sure = [(m, v.difference.mean * better(metric)) for m, v in compared if v.p_holm is not None and v.p_holm < ALPHA]
    name, baseline = (
        {"alignment": "Prompt alignment", "leakage": "Background leakage"}[axis],
        method_label(findings.baseline),
    )
    if not compared:
        return ""
    if not sure:
        return f"{name} ({metric_label(metric)}) differs from {baseline}'s for no method beyond chance."
    worst, best = min(sure, key=lambda s: s[1]), max(sure, key=lambda s: s[1])
    parts = []
    if worst[1] < 0:
        parts.append(
            f"worse than {baseline}'s for {sum(s < 0 for _, s in sure)} of {len(compared)} methods, most for "
            f"{method_label(worst[0])} ({_difference(findings.versus(metric, worst[0]))})"
        )
    if best[1] > 0:
        parts.append(
            f"better for {sum(s > 0 for _, s in sure)}, most for {method_label(best[0])} "
            f"({_difference(findings.versus(metric, best[0]))})"
        )
    return f"{name} ({metric_label(metric)}) is " + " and ".join(parts) + "."


def _told(findings: Findings, metric: str, method: str, group: str) -> str:
    mean = findings.mean(metric, method, group).mean
    return f" ({metric_label(metric)} {mean:.3f}, {'higher' if better(metric) > 0 else 'lower'} is better)"


def _difference(versus) -> str:
    p = "" if versus.p_holm is None else f", Holm p = {versus.p_holm:.2g}"
    return f"{told(versus.difference, '+')}{p}, n = {versus.sets}".replace("-", "−")


def _sets(n: int) -> str:
    return f"{n} set{'s' if n != 1 else ''}"
