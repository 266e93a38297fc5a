"""The tables of a report: statistics.csv, LaTeX for each group of sets, and report.md for a repository."""

from collections.abc import Sequence

from svdstory.jobs.report.cells import Study, is_random
from svdstory.jobs.report.claims import Answer
from svdstory.jobs.report.draft import Draft
from svdstory.jobs.report.findings import Findings, better
from svdstory.jobs.report.labels import method_label, metric_label
from svdstory.jobs.report.safe_names import safe_names
from svdstory.jobs.report.statistics import Interval
from svdstory.jobs.report.tables.rows import statistics_rows, to_csv, to_latex


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
    lines = [f"# {_plain(plan.experiment)}", "", _plain(plan.about), "", f"{setting}. {counts}.", ""]
    lines += [f"> **{_plain(note)}**" for note in study.number_notes] + [""] * bool(study.number_notes)
    if axes:
        heads = [f"{metric_label(m)} {'↑' if better(m) > 0 else '↓'}" for m in axes.values()]
        lines += [
            "Means over prompt sets with 95 % bootstrap intervals; † differs from "
            f"{method_label(findings.baseline)} (Wilcoxon, Holm-corrected p < 0.05).",
            "",
            "| method | " + " | ".join(heads) + " | sets |",
            "|---" * (len(heads) + 1) + "|---:|",
        ]
        for method in plan.methods:
            sets = max((s.sets for m in axes.values() if (s := findings.summary(m, method))), default=0)
            cells = [number(findings, metric, method) for metric in axes.values()]
            lines.append(f"| {_plain(method_label(method))} | " + " | ".join(cells) + f" | {sets} |")
        lines.append("")
    if findings.answers:
        lines += [
            "What the report claims for SDXL, asked of this run: paired differences over prompt sets with 95 % "
            "bootstrap intervals; p by Wilcoxon, Holm-corrected for all claims here.",
            "",
            "| claim | contrast | difference | p | sets | |",
            "|---|---|---|---:|---:|---|",
        ]
        lines += ["| " + " | ".join(cells) + " |" for cells in answer_rows(findings.answers, study)] + [""]
    lines += ["![All sets and methods](overview.png)", ""]
    for name, caption in captions.items():
        lines += [f"## {name}", "", caption, "", f"![{name}](figures/{name}.png)", ""]
    return "\n".join(lines)


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
    """`0.312 [0.290, 0.334] †`, or a dash."""
    interval, versus = findings.mean(metric, method, group), findings.versus(metric, method, group)
    if interval is None:
        return "-"
    return told(interval) + (" †" if versus and versus.p_holm is not None and versus.p_holm < 0.05 else "")


def told(interval: Interval, sign: str = "") -> str:
    """`0.312 [0.290, 0.334]`; with a decimal more where all is small, and no minus before a zero."""
    values = [v for v in (interval.mean, interval.low, interval.high) if v is not None]
    digits = 3 if max(map(abs, values)) >= 0.05 else 4
    mean, *bounds = (f"{round(v, digits) + 0.0:{sign}.{digits}f}" for v in values)
    return mean + (f" [{', '.join(bounds)}]" if bounds else "")


def _plain(text: str) -> str:
    """User's text without markup."""
    return "".join("\\" + c if c in "\\`*_{}[]<>#|" else c for c in text.replace("\n", " "))
