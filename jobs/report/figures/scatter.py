"""Figures of means with intervals: tradeoff (alignment against consistency) and leakage (against the share kept)."""

import numpy as np
from matplotlib.patheffects import withStroke
from matplotlib.text import Text

from svdstory.jobs.report.figures.material import Material
from svdstory.jobs.report.figures.style import GREY, INK, LIGHT, WIDTH, colour, plt, say
from svdstory.jobs.report.findings import better

HALO = withStroke(linewidth=2.2, foreground="white")
LABELLED = 14  # as many methods are all called by name; of more, the Pareto front and the references


def why_not_tradeoff(material: Material) -> str:
    missing = [axis for axis in ("alignment", "consistency") if axis not in material.findings.axes]
    return (
        f"no numbers for {' and '.join(missing)}: svdstory score RUN --scorer clipscore --scorer dreamsim"
        if missing
        else ""
    )


def draw_tradeoff(material: Material):
    """Every method with its intervals in both directions; better is up and to the right."""
    findings = material.findings
    x_metric, y_metric = (findings.axes[a] for a in ("alignment", "consistency"))
    points = {m: (findings.mean(x_metric, m), findings.mean(y_metric, m)) for m in material.study.plan.methods}
    points = {m: p for m, p in points.items() if None not in p and m in distinct(material)}
    whole = {m for m in points if not any(findings.summary(metric, m).sets_left_out for metric in (x_metric, y_metric))}
    front = pareto(
        {
            m: (x.mean * better(x_metric), y.mean * better(y_metric))
            for m, (x, y) in points.items()
            if m in whole or not whole
        }
    )  # means over other sets don't compare
    figure, axes = plt.subplots(figsize=(WIDTH, 4.4), layout="constrained")
    named = set(points) if len(points) <= LABELLED else {*front, "sdxl", findings.baseline, "unmasked"} & set(points)
    for method, (x, y) in points.items():
        strong = method in named
        axes.errorbar(
            x.mean,
            y.mean,
            xerr=_arms(x),
            yerr=_arms(y),
            fmt="none",
            elinewidth=0.6,
            ecolor=colour(method),
            alpha=0.8 if strong else 0.22,
            zorder=2,
        )
        axes.plot(
            x.mean,
            y.mean,
            "o",
            ms=5 if strong else 3.5,
            color=colour(method),
            mec="white",
            mew=0.5,
            zorder=4 if strong else 3,
        )
    line = np.array([[points[m][0].mean, points[m][1].mean] for m in front])
    axes.plot(line[:, 0], line[:, 1], color=INK, lw=0.8, ls=(0, (4, 3)), zorder=2, label=material.word("pareto"))
    _direct(axes, material, x_metric, y_metric)
    axes.legend(loc="lower left")
    _name_points(
        figure,
        axes,
        {m: (points[m][0].mean, points[m][1].mean, material.label(m)) for m in sorted(named)},
        [(x.mean, y.mean) for x, y in points.values()],
    )
    _tell_n(axes, material, (x_metric, y_metric))
    say(figure, material, x_metric, y_metric)
    return figure


def distinct(material: Material) -> set[str]:
    """Methods without those whose switches are another's: they are the same units, and one point."""
    first: dict[str, str] = {}
    for name, method in material.study.plan.methods.items():
        first.setdefault(repr(method), name)
    return set(first.values())


def pareto(points: dict[str, tuple[float, float]]) -> list[str]:
    """Names of the points that no other beats in both (higher is better), from left to right."""

    def beaten(p: tuple[float, float]) -> bool:
        return any(q[0] >= p[0] and q[1] >= p[1] and q != p for q in points.values())

    return sorted((name for name, p in points.items() if not beaten(p)), key=lambda name: points[name])


def _arms(interval) -> list | None:
    if interval.low is None:
        return None
    return [[max(interval.mean - interval.low, 0)], [max(interval.high - interval.mean, 0)]]


def _direct(axes, material: Material, x_metric: str, y_metric: str) -> None:
    """Axis labels, and the axes turned so that better is right and up."""
    axes.set_xlabel(f"{material.word('alignment')}: {material.metric(x_metric)}  →  {material.word('better')}")
    axes.set_ylabel(f"{material.word('consistency')}: {material.metric(y_metric)}  →  {material.word('better')}")
    if better(x_metric) < 0:
        axes.invert_xaxis()
    if better(y_metric) < 0:
        axes.invert_yaxis()
    axes.grid(color=LIGHT, lw=0.4)
    axes.set_axisbelow(True)


def _name_points(figure, axes, names: dict[str, tuple[float, float, str]], obstacles) -> None:
    """Each label at the nearest free place around its point."""
    figure.canvas.draw()
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in axes.transData.transform(np.array(obstacles))]
    inside = axes.get_window_extent()
    renderer = figure.canvas.get_renderer()
    for method, (x, y, label) in names.items():
        best = None
        for radius in (7, 12, 18, 26, 36, 48, 62, 78):
            for angle in (0, 180, 90, 270, 45, 135, 225, 315, 20, 160, 200, 340):
                dx, dy = radius * np.cos(np.radians(angle)), radius * np.sin(np.radians(angle))
                text = axes.annotate(
                    label,
                    (x, y),
                    (dx, dy),
                    textcoords="offset points",
                    fontsize=6.5,
                    color=colour(method),
                    path_effects=[HALO],
                    va="center",
                    annotation_clip=False,
                    zorder=5,
                    ha="left" if dx > 1 else "right" if dx < -1 else "center",
                    arrowprops={"arrowstyle": "-", "lw": 0.4, "color": GREY, "shrinkA": 0, "shrinkB": 3}
                    if radius > 12
                    else None,
                )
                text.update_positions(renderer)
                box = Text.get_window_extent(text, renderer).extents  # without its arrow
                free = not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken)
                if free and box[0] >= inside.x0 and box[2] <= inside.x1 + 20 and box[3] <= inside.y1 + 10:
                    best = box
                    break
                text.remove()
            if best is not None:
                taken.append(tuple(best))
                break


def _tell_n(axes, material: Material, metrics: tuple[str, ...]) -> None:
    """How many sets the means are over, and how many were left out."""
    summaries = [
        s
        for m in material.study.plan.methods
        for metric in metrics
        if (s := material.findings.summary(metric, m)) and s.interval
    ]
    counts = sorted({s.sets for s in summaries})
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} - {counts[-1]}"
    text = material.word("intervals", n)
    left_out = max((s.sets_left_out for s in summaries), default=0)
    if left_out:
        text += "; " + material.word("incomplete", left_out)
    axes.set_title(text, fontsize=7, color=GREY, loc="left")


def why_not_leakage(material: Material) -> str:
    if "leakage" not in material.findings.axes:
        return "no numbers for leakage: svdstory score RUN --scorer background (and the method sdxl in the run)"
    return "" if len(shares(material)) > 1 else "fewer than two methods differ in the share kept of both K and V"


def draw_leakage(material: Material):
    """Leakage against the share kept of both K and V; ConsiStory and others without a share as levels."""
    metric, findings = material.findings.axes["leakage"], material.findings
    figure, axes = plt.subplots(figsize=(WIDTH * 0.75, 3.2), layout="constrained")
    kept = sorted((share, m) for m, share in shares(material).items() if findings.mean(metric, m))
    x = [share for share, _ in kept]
    means = [findings.mean(metric, m) for _, m in kept]
    axes.plot(x, [i.mean for i in means], "o-", color=colour("svd"), ms=4, lw=1.2, mec="white", mew=0.5)
    if all(i.low is not None for i in means):
        axes.fill_between(x, [i.low for i in means], [i.high for i in means], color=colour("svd"), alpha=0.15, lw=0)
    for method in [m for m in ("consistory", "svd-log", "svd-log2") if material.has(m)]:
        level = findings.mean(metric, method)
        if level:
            axes.axhline(
                level.mean,
                color=colour(method),
                lw=0.8,
                ls=(0, (4, 3)) if method != "svd-log2" else ":",
                label=material.label(method),
            )
    axes.axhline(0, color=GREY, lw=0.6)
    axes.set(xscale="log", xlabel=material.word("share"))
    axes.set_ylabel(f"{material.word('leakage')}\n{material.metric(metric)}", fontsize=7)
    axes.set_xticks(x, [f"{share * 100:g} %" for share in x])
    axes.minorticks_off()
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    _tell_n(axes, material, (metric,))
    say(figure, material, metric)
    return figure


def shares(material: Material) -> dict[str, float]:
    """Method -> the share of singular values that it keeps of both K and V, all else being as in `unmasked`."""
    found = {}
    for name, method in material.study.plan.methods.items():
        switches = method.switches()
        filters = switches.pop("filter_k", None), switches.pop("filter_v", None)
        plain = (
            switches.get("extended_attention") == "unmasked"
            and "tuning" not in switches
            and switches.get("n_anchors") == 2
            and switches.get("feature_injection")
        )
        if plain and filters == (None, None):
            found[name] = 1.0
        elif plain and filters[0] and filters[0] == filters[1] and set(filters[0]) == {"keep_fraction"}:
            found[name] = filters[0]["keep_fraction"]
    unique = {share: name for name, share in reversed(list(found.items()))}  # equal switches are one unit
    return {name: share for share, name in unique.items()}
