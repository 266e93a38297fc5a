"""Figures of tables: kv-grid (K share × V share), sets (methods × sets), winners (who repairs which bad set)."""

import numpy as np

from svdstory.jobs.report.escaping import drawn, plotted
from svdstory.jobs.report.figures.material import Material
from svdstory.jobs.report.figures.style import GREY, INK, LIGHT, SEQUENCE, WIDTH, colour, plt, say
from svdstory.jobs.report.findings import better


def why_not_kv_grid(material: Material) -> str:
    points = kv_points(material)
    if len({k for k, _ in points}) < 2 or len({v for _, v in points}) < 2:
        return "the run has no methods that differ in K's and V's share (svd-kv)"
    return "" if material.findings.axes else "no numbers: svdstory score RUN"


def draw_kv_grid(material: Material):
    """One heat map for each of consistency, leakage and alignment that was measured."""
    points, axes_there = kv_points(material), material.findings.axes
    wanted = [a for a in ("consistency", "leakage", "alignment") if a in axes_there]
    ks, vs = sorted({k for k, _ in points}), sorted({v for _, v in points})
    figure, panels = plt.subplots(
        1, len(wanted), figsize=(WIDTH * len(wanted) / 3 + 0.3, 2.5), layout="constrained", squeeze=False
    )
    for panel, axis in zip(panels[0], wanted):
        metric = axes_there[axis]
        means = {(k, v): material.findings.mean(metric, m) for (k, v), m in points.items()}
        table = np.array([[means[k, v].mean if means.get((k, v)) else np.nan for v in vs] for k in ks])
        sign = better(metric)
        digits = 3 if np.nanmax(np.abs(table), initial=0) >= 0.05 else 4
        draw_table(panel, table * sign, table, f"{{:.{digits}f}}", material)
        panel.set_xticks(range(len(vs)), [f"{v * 100:g} %" for v in vs])
        panel.set_yticks(range(len(ks)), [f"{k * 100:g} %" for k in ks])
        panel.set_xlabel(material.word("share of V"))
        panel.set_title(f"{material.word(axis)}\n{material.metric(metric)} {'↑' if sign > 0 else '↓'}", fontsize=7.5)
    panels[0][0].set_ylabel(material.word("share of K"))
    say(figure, material, *(axes_there[a] for a in wanted))
    return figure


def kv_points(material: Material) -> dict[tuple[float, float], str]:
    """(share of K, share of V) -> method, of those that differ in nothing else."""
    found: dict[tuple[float, float], str] = {}
    for name, method in material.study.plan.methods.items():
        k, v = method.filter_k, method.filter_v
        plain = method.extended_attention == "unmasked" and method.n_anchors == 2 and method.feature_injection
        if plain and k and v and k.keep_fraction and v.keep_fraction and not k.reweight and not v.reweight:
            found.setdefault((k.keep_fraction, v.keep_fraction), name)
    crossed = {k for k, v in found if k != v} & {v for k, v in found if k != v}
    return {(k, v): name for (k, v), name in found.items() if k in crossed and v in crossed}


def why_not_sets(material: Material) -> str:
    return (
        ""
        if "consistency" in material.findings.axes
        else "no numbers for consistency: svdstory score RUN --scorer dreamsim"
    )


def draw_sets(material: Material):
    """Colour is consistency; sets in groups, in each the easiest for the baseline first."""
    metric = material.findings.axes["consistency"]
    sign, methods = better(metric), list(material.study.plan.methods)
    names = ordered_sets(material, metric)
    table = np.array([[_number(material.set_mean(metric, m, s)) for s in names] for m in methods])
    figure, axes = plt.subplots(
        figsize=(max(WIDTH, 1.6 + 0.2 * len(names)), 0.9 + 0.17 * len(methods)), layout="constrained"
    )
    image = draw_table(axes, table * sign, None, "", material)
    _name_axes(axes, material, methods, names)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.01, aspect=30)
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.2f}" if sign < 0 else f"{value:.2f}")
    bar.set_label(f"{material.metric(metric)} ({'↓' if sign < 0 else '↑'} {material.word('better')})", fontsize=7)
    say(figure, material, metric)
    return figure


def ordered_sets(material: Material, metric: str) -> list[str]:
    sets, baseline = material.study.plan.sets, material.findings.baseline
    groups = sorted({p.group for p in sets.values()}, key=lambda g: {"good": 0, "bad": 1}.get(g, 2))

    def ease(name: str) -> tuple:
        value = material.set_mean(metric, baseline, name)
        return (groups.index(sets[name].group), value is None, -better(metric) * (value or 0.0))

    return sorted(sets, key=ease)


def why_not_winners(material: Material) -> str:
    if why_not_sets(material):
        return why_not_sets(material)
    return "" if material.groups("bad") else "the run has no bad sets"


def draw_winners(material: Material):
    """Filled: as consistent as the baseline's good sets are (median). Open: better than the baseline on this set."""
    metric, baseline = material.findings.axes["consistency"], material.findings.baseline
    won = winners(material)
    names = [s for s in ordered_sets(material, metric) if s in material.groups("bad")]
    methods = sorted(
        (m for m in material.study.plan.methods if m != baseline),
        key=lambda m: (-sum(won[m, s] == "repaired" for s in names), -sum(won[m, s] == "improved" for s in names)),
    )
    figure = plt.figure(figsize=(0.9 + 0.28 * len(names), 0.175 * len(methods)))
    axes = figure.add_axes((0, 0, 1, 1))  # labels stand outside; the file is cut to what is drawn
    for r, method in enumerate(methods):
        for c, name in enumerate(names):
            state = won[method, name]
            if state in ("repaired", "improved"):
                axes.plot(
                    c,
                    r,
                    "o",
                    ms=6,
                    color=colour(method),
                    mfc=colour(method) if state == "repaired" else "none",
                    mew=1.0,
                )
            elif state == "missing":
                axes.text(c, r, "?", ha="center", va="center", color=GREY, fontsize=6)
        total = sum(won[method, s] in ("repaired", "improved") for s in names)
        axes.text(
            len(names) - 0.3,
            r,
            f"{sum(won[method, s] == 'repaired' for s in names)} ●   "
            f"{sum(won[method, s] == 'improved' for s in names)} ○"
            if total
            else "",
            va="center",
            fontsize=7,
            color=INK,
        )
    axes.set(xlim=(-0.6, len(names) + 0.6), ylim=(len(methods) - 0.4, -0.6))
    axes.set_xticks(range(len(names)), [short(n) for n in names], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(methods)), [material.label(m) for m in methods])
    axes.grid(color=LIGHT, lw=0.4)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for state, fill in (("repaired", INK), ("improved", "none")):
        axes.plot([], [], "o", color=INK, mfc=fill, ms=5, label=material.word(state, material.label(baseline)))
    axes.plot([], [], ls="none", marker="$?$", color=GREY, ms=5, label=material.word("missing"))
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        bbox_transform=axes.transAxes,
        borderaxespad=0.8,
        title=material.metric(metric),
        title_fontsize=7,
        alignment="left",
    )
    say(figure, material, metric, above=0.95)
    return figure


def winners(material: Material) -> dict[tuple[str, str], str]:
    """(method, bad set) -> repaired, improved, not or missing."""
    metric, baseline = material.findings.axes["consistency"], material.findings.baseline
    sign, found = better(metric), {}
    good = [v for s in material.groups("good") if (v := material.set_mean(metric, baseline, s)) is not None]
    enough = float(np.median(good)) * sign if good else float("inf")
    for name in material.groups("bad"):
        theirs = material.set_mean(metric, baseline, name)
        for method in material.study.plan.methods:
            ours = material.set_mean(metric, method, name)
            if ours is None or theirs is None:
                found[method, name] = "missing"
            elif ours * sign <= theirs * sign:
                found[method, name] = "not"
            else:
                found[method, name] = "repaired" if ours * sign >= enough else "improved"
    return found


def draw_table(axes, shade: np.ndarray, numbers: np.ndarray | None, form: str, material: Material):
    """A heat map, darker = better; cells without a number are hatched."""
    axes.set_facecolor("#f6f4f0")
    image = axes.imshow(shade, cmap=SEQUENCE, aspect="auto")
    low, high = (np.nanmin(shade), np.nanmax(shade)) if np.isfinite(shade).any() else (0, 1)
    for r, c in np.ndindex(shade.shape):
        if np.isnan(shade[r, c]):
            axes.add_patch(plt.Rectangle((c - 0.5, r - 0.5), 1, 1, fill=False, hatch="////", ec=LIGHT, lw=0))
        elif numbers is not None:
            dark = (shade[r, c] - low) / ((high - low) or 1) > 0.55
            axes.text(
                c, r, form.format(numbers[r, c]), ha="center", va="center", fontsize=7, color="white" if dark else INK
            )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image


def _name_axes(axes, material: Material, methods: list[str], names: list[str]) -> None:
    axes.set_xticks(
        range(len(names)),
        [short(n) for n in names],
        rotation=45,
        ha="right",
        rotation_mode="anchor",
        fontsize=min(7, 700 / max(len(names), 1)),
    )
    axes.set_yticks(range(len(methods)), [material.label(m) for m in methods], fontsize=7)
    groups = [material.study.plan.sets[s].group for s in names]
    starts = [i for i in range(len(groups)) if i == 0 or groups[i] != groups[i - 1]]
    for start in starts:
        end = next((s for s in starts if s > start), len(groups))
        text = material.word(groups[start]) if groups[start] in ("good", "bad") else plotted(groups[start])
        axes.text((start + end - 1) / 2, -0.8, text, ha="center", va="bottom", fontsize=7.5, color=INK)
        if start:
            axes.axvline(start - 0.5, color="white", lw=2.5)


def short(name: str) -> str:
    """A set's name as a tick's label."""
    name = drawn(name)
    return plotted(name if len(name) <= 26 else name[:25] + "…")


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
