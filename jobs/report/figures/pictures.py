"""Figures of pictures: good-bad, components, parameters, comparison. Blocks of rows over one set's settings."""

import textwrap
from dataclasses import dataclass

import numpy as np

from svdstory.jobs.report.escaping import plotted
from svdstory.jobs.report.figures.material import Material
from svdstory.jobs.report.figures.style import GREY, INK, LIGHT, plt, say
from svdstory.jobs.report.findings import better
from svdstory.jobs.report.labels import lead

CELL, LABEL, GAP = 1.3, 1.25, 0.04  # inches: a picture's width, the row labels' width, between pictures
COMPONENTS = (
    "sdxl",
    "consistory",
    "consistory-same-latent",
    "consistory-no-attention",
    "consistory-no-query-blending",
    "consistory-no-injection",
)
PARAMETERS = (
    "consistory-dropout-0.2",
    "consistory",
    "consistory-dropout-0.8",
    "consistory-anchors-1",
    "consistory-anchors-3",
)
COMPARED = ("svd-log", "svd-log2")


@dataclass(frozen=True)
class Block:
    """Rows of one prompt set: (label, method)."""

    set: str
    rows: tuple[tuple[str, str], ...]
    title: str = ""


def why_not_good_bad(material: Material) -> str:
    groups = [g for g in ("good", "bad") if not material.groups(g)]
    return f"the run has no {' and no '.join(groups)} sets" if groups else ""


def draw_good_bad(material: Material):
    """The good set where the baseline is most consistent, above the bad one where it is least."""
    method = material.findings.baseline
    chosen = [extreme_set(material, method, group) for group in ("good", "bad")]
    titles = (material.word("good"), material.word("bad"))
    return draw_blocks(material, [Block(s, ((title, method),)) for s, title in zip(chosen, titles)])


def extreme_set(material: Material, method: str, group: str) -> str:
    """By the measured consistency: the best of the good sets, the worst of the bad ones; unmeasured, the first."""
    names, metric = material.groups(group), material.findings.axes.get("consistency")
    values = {s: material.set_mean(metric, method, s) for s in names} if metric and not material.random(metric) else {}
    measured = {s: v * better(metric) for s, v in values.items() if v is not None}
    if not measured:
        return next((s for s in names if not material.place(s, method).hole), names[0])
    return max(measured, key=measured.get) if group == "good" else min(measured, key=measured.get)


def why_not_components(material: Material) -> str:
    return _too_few(material, COMPONENTS, "consistory")


def draw_components(material: Material):
    return _rows_of_one_set(material, COMPONENTS)


def why_not_parameters(material: Material) -> str:
    return _too_few(material, PARAMETERS, "consistory")


def draw_parameters(material: Material):
    return _rows_of_one_set(material, PARAMETERS)


def why_not_comparison(material: Material) -> str:
    return _too_few(material, (material.findings.baseline, *COMPARED), COMPARED[0])


def draw_comparison(material: Material):
    """The baseline, log and log²: on the bus and on the doctor where they are there, else on two bad sets."""
    sets = [s for s in ("blue-bus", "doctor") if s in material.study.plan.sets]
    sets = sets or (material.groups("bad") or list(material.study.plan.sets))[:2]
    methods = [m for m in (material.findings.baseline, *COMPARED) if material.has(m)]
    return draw_blocks(material, [Block(s, tuple((material.label(m), m) for m in methods)) for s in sets])


def _too_few(material: Material, methods: tuple[str, ...], needed: str) -> str:
    there = [m for m in methods if material.has(m)]
    if needed in there and len(there) > 1:
        return ""
    return f"the run has {', '.join(there) or 'none'} of the methods {', '.join(methods)}"


def _rows_of_one_set(material: Material, methods: tuple[str, ...]):
    """On the first set of the report's own that is good, or else on the first set."""
    sets = material.study.plan.sets
    first = next((s for s, p in sets.items() if p.origin == "report" and p.group == "good"), next(iter(sets)))
    return draw_blocks(material, [Block(first, tuple((material.label(m), m) for m in methods if material.has(m)))])


def draw_blocks(material: Material, blocks: list[Block]):
    """All pictures at one size; over each block its prompt, over each column its setting."""
    sets, (width, height) = material.study.plan.sets, material.study.plan.size
    columns = max(len(sets[b.set].settings) for b in blocks)
    cell_height, head = CELL * height / width, 0.66
    total = (LABEL + columns * (CELL + GAP), sum(head + len(b.rows) * (cell_height + GAP) for b in blocks))
    figure = plt.figure(figsize=total)
    y = total[1]
    for block in blocks:
        prompts = sets[block.set]
        figure.text(
            0, (y - 0.2) / total[1], f"{plotted(lead(prompts))} …", fontsize=9, weight="bold", color=INK, va="center"
        )
        y -= head
        for c, setting in enumerate(prompts.settings):
            figure.text(
                (LABEL + (c + 0.5) * (CELL + GAP)) / total[0],
                (y + 0.03) / total[1],
                "\n".join(textwrap.wrap(f"… {plotted(setting)}", 22)[:2]),
                ha="center",
                va="bottom",
                fontsize=7,
            )
        for label, method in block.rows:
            y -= cell_height + GAP
            figure.text(
                (LABEL - 0.08) / total[0],
                (y + cell_height / 2) / total[1],
                "\n".join(textwrap.wrap(label, 18)),
                ha="right",
                va="center",
                fontsize=7.5,
            )
            _draw_row(
                figure, material, material.place(block.set, method), (total, y, cell_height), len(prompts.settings)
            )
    say(figure, material)
    return figure


def _draw_row(figure, material: Material, place, where, columns: int) -> None:
    (width, height), y, cell_height = where
    if place.hole:
        axes = figure.add_axes(
            (LABEL / width, y / height, columns * (CELL + GAP) / width - GAP / width, cell_height / height)
        )
        axes.set(xticks=[], yticks=[], facecolor="#f6f4f0")
        axes.text(0.5, 0.5, plotted(place.hole), ha="center", va="center", color="#9c2b1b", transform=axes.transAxes)
        axes.spines[:].set(visible=True, color=LIGHT)
        return
    for c, image in enumerate(material.images(place)):
        axes = figure.add_axes(((LABEL + c * (CELL + GAP)) / width, y / height, CELL / width, cell_height / height))
        axes.imshow(np.asarray(image), interpolation="nearest" if image.width <= 128 else "antialiased")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=False, color=GREY)
