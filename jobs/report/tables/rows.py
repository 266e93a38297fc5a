"""Tables of a run's statistics as CSV and as LaTeX (booktabs). The same input gives the same bytes."""

import csv
import io
from collections.abc import Sequence

from svdstory.jobs.report.escaping import csv_cell, latex
from svdstory.jobs.report.statistics import CONFIDENCE, Comparison, Interval, Summary
from svdstory.pipeline.config.strict import digest

ALPHA = 0.05
PROTOCOL_FIELDS = ("scorer", "embedder", "weights", "library", "preprocessing", "background")


def statistics_rows(
    summaries: Sequence[Summary], comparisons: Sequence[Comparison], protocols: dict[str, dict]
) -> list[dict]:
    """One row for each metric, group and method: mean, interval, n, what is missing, the paired comparison to the
    baseline, and the protocol. Numbers that don't exist are None."""
    compared = {(c.metric, c.group, c.method): c for c in comparisons}
    rows = []
    for s in summaries:
        c = compared.get((s.metric, s.group, s.method))
        rows.append(
            {
                "metric": s.metric,
                "group": s.group,
                "method": s.method,
                **_interval("mean", s.interval),
                "sets": s.sets,
                "sets_left_out": s.sets_left_out,
                "cells": s.cells,
                "cells_missing": s.cells_missing,
                "baseline": c.baseline if c else None,
                **_interval("difference", c.difference if c else None),
                "paired_sets": c.sets if c else None,
                "paired_sets_left_out": c.sets_left_out if c else None,
                "sets_higher": c.higher if c else None,
                "wilcoxon_p": c.p if c else None,
                "holm_p": c.p_holm if c else None,
                "methods_compared": c.compared if c else None,
                **_protocol(protocols.get(s.metric, {})),
            }
        )
    return rows


def to_csv(rows: Sequence[dict]) -> str:
    """CSV with a header, \\n line ends, six decimals (p: three significant digits), nothing for None.

    Text that a spreadsheet would take for a formula is quoted with an apostrophe.
    """
    if not rows:
        return ""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _csv_cell(key, value) for key, value in row.items()} for row in rows)
    return buffer.getvalue()


def to_latex(rows: Sequence[dict], metrics: Sequence[str], group: str = "all", label: str = "tab:methods") -> str:
    """A booktabs table of `statistics_rows`: methods down, metrics across; mean, interval and n in each cell.

    A dagger marks a difference to the baseline with Holm-corrected p under 0.05. The caption names each metric's
    network, weights and protocol; random weights are said there in capitals. Needs \\usepackage{booktabs}.
    """
    chosen = {(row["method"], row["metric"]): row for row in rows if row["group"] == group}
    methods = list(dict.fromkeys(method for method, metric in chosen if metric in metrics))
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_caption(chosen, metrics, group)}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{l{'r' * len(metrics)}}}",
        r"\toprule",
        " & ".join(["method", *map(latex, metrics)]) + r" \\",
        r"\midrule",
    ]
    for method in methods:
        cells = [_latex_cell(chosen.get((method, metric))) for metric in metrics]
        lines.append(" & ".join([latex(method), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _interval(name: str, interval: Interval | None) -> dict:
    return {
        name: interval.mean if interval else None,
        f"{name}_low": interval.low if interval else None,
        f"{name}_high": interval.high if interval else None,
    }


def _protocol(protocol: dict) -> dict:
    return {
        **{field: protocol.get(field, "") for field in PROTOCOL_FIELDS},
        "protocol": digest(protocol)[:12] if protocol else "",
    }


def _csv_cell(key: str, value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if key.endswith("_p") else f"{value:.6f}"
    return csv_cell(value) if isinstance(value, str) else str(value)


def _latex_cell(row: dict | None) -> str:
    if row is None or row["mean"] is None:
        return "--"
    dagger = r"$^\dagger$" if row["holm_p"] is not None and row["holm_p"] < ALPHA else ""
    bounds = "" if row["mean_low"] is None else f"[{row['mean_low']:.3f}, {row['mean_high']:.3f}], "
    return rf"{row['mean']:.3f}{dagger} {{\scriptsize {bounds}$n$={row['sets']}}}"


def _caption(chosen: dict, metrics: Sequence[str], group: str) -> str:
    rows = [row for row in chosen.values() if row["metric"] in metrics]
    parts = [
        f"Means over {'all' if group == 'all' else latex(group)} prompt sets ($n$), "
        rf"{CONFIDENCE * 100:.0f}\% bootstrap intervals (BCa) over sets."
    ]
    baselines = sorted({row["baseline"] for row in rows if row["baseline"]})
    if baselines:
        parts.append(
            rf"$\dagger$: differs from {latex(', '.join(baselines))} on the same sets and seeds "
            rf"(Wilcoxon, Holm-corrected $p < {ALPHA}$)."
        )
    missing = max((row["cells_missing"] for row in rows), default=0)
    if missing:
        parts.append(f"Incomplete: up to {missing} cells of a method are missing; their sets are left out.")
    told: dict[str, list[str]] = {}
    for metric in metrics:
        row = next((row for row in rows if row["metric"] == metric), None)
        if row:
            weights = row["weights"]
            state = "RANDOM WEIGHTS: NO MEANING" if not weights or "random" in weights else f"weights {weights[:12]}"
            told.setdefault(f"{row['embedder']}, {state}, {row['library']}", []).append(f"{metric} ({row['protocol']})")
    parts += [latex(f"{', '.join(names)}: {network}.") for network, names in told.items()]
    return " ".join(parts)
