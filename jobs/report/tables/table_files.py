"""The tables of a report: statistics.csv, LaTeX for each group of sets, and report.md for a repository."""

from collections.abc import Sequence

from svdstory.jobs.report.cells import Study, is_random
from svdstory.jobs.report.claims import Answer
from svdstory.jobs.report.draft import Draft
from svdstory.jobs.report.escaping import markdown as escape
from svdstory.jobs.report.findings import Findings, better
from svdstory.jobs.report.labels import meaning, method_label, metric_label
from svdstory.jobs.report.published import beside, differences, published
from svdstory.jobs.report.safe_names import safe_names
from svdstory.jobs.report.statistics import Interval
from svdstory.jobs.report.tables.rows import statistics_rows, to_csv, to_latex

NAMED = 4  # sets and methods that are named before the others are counted


def groups_of(study: Study) -> list[str]:
    """`all`, then the groups of sets if there are several."""
    groups = list(dict.fromkeys(p.group for p in study.plan.sets.values() if p.group))
    return ["all", *groups] if len(groups) > 1 else ["all"]


def add_tables(
    draft: Draft, study: Study, findings: Findings, inputs: list, setting: str, counts: str, captions: dict[str, str]
) -> None:
    """captions: name of a figure that was drawn -> what it shows."""
    rows = statistics_rows(findings.summaries, findings.comparisons, study.measured.protocols)
    draft.add("statistics.csv", ["statistics", *inputs], lambda: to_csv(rows).encode())
    metrics = list(findings.axes.values())
    total, *groups = groups_of(study)
    for group, name in {total: total, **safe_names(groups, taken=[total])}.items() if metrics else ():
        draft.add(
            f"tables/methods-{name}.tex",
            ["latex", group, *inputs],
            lambda: to_latex(rows, metrics, group, f"tab:methods-{name}").encode(),
        )
    draft.add(
        "report.md",
        ["markdown", setting, counts, captions, *inputs],
        lambda: markdown(study, findings, setting, counts, captions).encode(),
    )


def markdown(study: Study, findings: Findings, setting: str, counts: str, captions: dict[str, str]) -> str:
    """What a repository shows: counts, notes, the table of means, the figures."""
    plan, axes = study.plan, findings.axes
    lines = [f"# {escape(plan.experiment)}", "", escape(plan.about), "", f"{escape(setting)}. {counts}.", ""]
    lines += [f"> **{escape(note)}**" for note in study.number_notes] + [""] * bool(study.number_notes)
    if axes:
        heads = [f"{metric_label(m)} {'↑' if better(m) > 0 else '↓'}" for m in axes.values()]
        lines += [f"- {metric_label(m)}: {meaning(m)}" for m in axes.values()]
        lines += [
            "",
            f"Means over {_sets(findings)} prompt sets with 95 % bootstrap intervals; † differs from "
            f"{escape(method_label(findings.baseline))} (Wilcoxon, Holm-corrected p < 0.05).",
            "",
            "| method | " + " | ".join(heads) + " |",
            "|---" * (len(heads) + 1) + "|",
        ]
        for method in plan.methods:
            cells = [number(findings, metric, method) for metric in axes.values()]
            lines.append(f"| {escape(method_label(method))} | " + " | ".join(cells) + " |")
        lines += ["", *(f"- {escape(line)}" for line in left_out(study, list(axes.values()))), ""]
    if findings.answers:
        lines += [
            "What the report claims for SDXL, asked of this run: paired differences over prompt sets with 95 % "
            "bootstrap intervals; p by Wilcoxon, Holm-corrected for all claims here.",
            "",
            "| claim | contrast | difference | p | sets | |",
            "|---|---|---|---:|---:|---|",
        ]
        lines += ["| " + " | ".join(cells) + " |" for cells in answer_rows(findings.answers, study)] + [""]
    lines += beside_markdown(study, findings)
    lines += ["![All sets and methods](overview.png)", ""]
    for name, caption in captions.items():
        lines += [f"## {name}", "", caption, "", f"![{name}](figures/{name}.png)", ""]
    return "\n".join(lines)


def beside_markdown(study: Study, findings: Findings) -> list[str]:
    """A paper's table beside the run's numbers, where one was asked for."""
    if not study.published:
        return []
    table = published(study.published)
    lines = [f"## Beside {table.source}", "", escape(table.checked.strip()), ""]
    lines += ["| method | metric | paper | here | sets | here − paper | |", "|---|---|---:|---:|---:|---:|---|"]
    lines += ["| " + " | ".join(map(escape, cells)) + " |" for cells in beside_rows(study, findings)]
    return [*lines, "", "Not made alike:", "", *(f"- {escape(line)}" for line in differences(table, study)), ""]


def beside_rows(study: Study, findings: Findings) -> list[list[str]]:
    """method, the paper's metric, its number, ours with its interval, sets, the difference, what ours was measured by"""
    return [
        [
            method_label(b.method),
            b.metric,
            f"{b.paper:.4f}",
            told(b.here) if b.here else "-",
            str(b.sets or "-"),
            f"{b.here.mean - b.paper:+.4f}".replace("-", "−") if b.here else "-",
            "; ".join(part for part in (b.measured_as, b.why) if part),
        ]
        for b in beside(published(study.published), study, findings)
    ]


def answer_rows(answers: Sequence[Answer], study: Study) -> list[list[str]]:
    """claim, contrast, difference, p, sets, verdict; numbers of random weights have none"""
    rows = []
    for a in answers:
        difference = told(a.difference, "+")
        contrast = f"{metric_label(a.metric)}: {method_label(a.claim.method)} − {method_label(a.claim.than)}"
        random = is_random(study.measured.protocols.get(a.metric, {}))
        rows.append(
            [
                a.claim.claim,
                contrast,
                difference.replace("-", "−"),
                f"{a.p_holm:.2g}",
                str(a.sets),
                "random weights" if random else a.verdict,
            ]
        )
    return rows


def number(findings: Findings, metric: str, method: str, group: str = "all") -> str:
    """`0.312 [0.290, 0.334] †`, with `n = 12` where the means of the table are over differing numbers of sets; or a dash."""
    summary, versus = findings.summary(metric, method, group), findings.versus(metric, method, group)
    if summary is None or summary.interval is None:
        return "-"
    sure = versus and versus.p_holm is not None and versus.p_holm < 0.05
    n = f" n = {summary.sets}" if _sets(findings) == "n" else ""
    return told(summary.interval) + n + (" †" if sure else "")


def _sets(findings: Findings) -> str:
    """How many sets each mean of the table is over; `n` if that differs."""
    metrics = findings.axes.values()
    sizes = {s.sets for s in findings.summaries if s.metric in metrics and s.group == "all" and s.interval}
    return str(*sizes) if len(sizes) == 1 else "n"


def told(interval: Interval, sign: str = "") -> str:
    """`0.312 [0.290, 0.334]`; with a decimal more where all is small, and no minus before a zero."""
    values = [v for v in (interval.mean, interval.low, interval.high) if v is not None]
    digits = 3 if max(map(abs, values)) >= 0.05 else 4
    mean, *bounds = (f"{round(v, digits) + 0.0:{sign}.{digits}f}" for v in values)
    return mean + (f" [{', '.join(bounds)}]" if bounds else "")


def left_out(study: Study, metrics: Sequence[str]) -> list[str]:
    """`CLIPScore: 2 of 192 sets are left out of means: blue-bus (SVD log: out of memory), cat (all methods: not scored)`

    A line for each metric that lacks cells.
    """
    lines = []
    for metric in metrics:
        lacking: dict[str, dict[str, str]] = {}  # set -> method -> cause
        for (set_name, method, _), m in study.numbers[metric].items():
            if m.value is None:
                lacking.setdefault(set_name, {})[method] = m.cause
        named = [f"{s} ({_whose(study, causes)})" for s, causes in list(lacking.items())[:NAMED]]
        named += [f"{len(lacking) - NAMED} more (metrics.csv)"] if len(lacking) > NAMED else []
        if lacking:
            count = f"{len(lacking)} of {len(study.plan.sets)} sets"
            lines.append(f"{metric_label(metric)}: {count} are left out of means: {', '.join(named)}")
    return lines


def _whose(study: Study, causes: dict[str, str]) -> str:
    """causes: method -> why its cell has no number."""
    labels = [method_label(m) for m in causes]
    whose = ", ".join(labels) if len(labels) <= NAMED else f"{len(labels)} methods"
    whose = "all methods" if len(labels) == len(study.plan.methods) else whose
    return f"{whose}: {', '.join(dict.fromkeys(causes.values()))}"
