"""Figures of spectra: singular values of K and V by layer and iteration, and what a reweighting does to them.

They are drawn from RUN/spectra/<key>.safetensors, which `svdstory spectra RUN` makes.
"""

from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from svdstory.jobs.report.figures.material import Material
from svdstory.jobs.report.figures.style import GREY, LIGHT, WIDTH, plt, say

FIRST = 50
FLOOR = 1e-5  # of the largest singular value
STEP_COLOURS = ("#e3b7a0", "#d98a66", "#c4512d", "#8f3a2b", "#43182a")


def spectra_files(run: Path) -> list[Path]:
    return sorted((run / "spectra").glob("*.safetensors"))


def read_spectra(run: Path) -> dict[tuple[str, int, int], np.ndarray]:
    """("k" | "v", layer, step) -> (r,) descending, of the first file."""
    from safetensors.numpy import load_file

    found = {}
    for name, values in load_file(spectra_files(run)[0]).items():
        if name.count(".") == 2:  # others: token maps, the mask
            matrix, layer, step = name.split(".")
            found[matrix, int(layer), int(step)] = values
    return found


def why_not_spectra(material: Material) -> str:
    return "" if spectra_files(material.study.run) else "no spectra were recorded: svdstory spectra RUN"


why_not_reweighting = why_not_spectra


def draw_spectra(material: Material):
    """Rows: K and V, whole and the first 50 (where there are more). Columns: layers. One line for each iteration."""
    spectra = read_spectra(material.study.run)
    layers = sorted({layer for _, layer, _ in spectra})
    parts = ("all values", "first 50") if max(map(len, spectra.values())) > FIRST else ("all values",)
    rows = [(matrix, part) for matrix in "kv" for part in parts]
    figure, panels = plt.subplots(
        len(rows), len(layers), figsize=(WIDTH, 0.4 + 1.5 * len(rows)), layout="constrained", squeeze=False
    )
    for (r, c), axes in np.ndenumerate(panels):
        (matrix, part), layer = rows[r], layers[c]
        _draw_steps(
            axes,
            {step: values for (m, at, step), values in spectra.items() if (m, at) == (matrix, layer)},
            part,
            material,
        )
        if c == 0:
            axes.set_ylabel(f"{matrix.upper()}\n{material.word(part)}", fontsize=7)
        if r == 0:
            axes.set_title(f"{material.word('layer')} {layer}")
        if r == len(rows) - 1:
            axes.set_xlabel(material.word("index"), fontsize=7)
    panels[0][-1].legend(loc="upper right", handlelength=1.2)
    say(figure, material)
    return figure


def _draw_steps(axes, by_step: dict[int, np.ndarray], part: str, material: Material) -> None:
    """Values below the rounding of the largest are not drawn: they are zero."""
    largest = max(float(values[0]) for values in by_step.values())
    for (step, values), shade in zip(sorted(by_step.items()), STEP_COLOURS):
        values = values[:FIRST] if part == "first 50" else values
        axes.plot(
            np.arange(1, len(values) + 1),
            np.where(values > largest * FLOOR, values, np.nan),
            color=shade,
            lw=1.0,
            label=f"{material.word('iteration')} {step}",
        )
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(color=LIGHT, lw=0.4)


def draw_reweighting(material: Material):
    """K of the middle layer and iteration: as it is, log and log², each at the norm of the original."""
    spectra = read_spectra(material.study.run)
    keys = sorted((layer, step) for matrix, layer, step in spectra if matrix == "k")
    layers = sorted({layer for layer, _ in keys})
    layer = layers[len(layers) // 2]
    steps = sorted(step for at, step in keys if at == layer)
    step = steps[len(steps) // 2]
    sigma = spectra["k", layer, step].astype(np.float64)
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 2.6), layout="constrained")
    log = np.maximum(np.log(np.maximum(sigma, 1e-30)), 0)
    lines = (("as is", sigma, GREY, "-"), ("log", log, "#c4512d", "-"), ("log²", log**2, "#43182a", (0, (4, 2))))
    for axes, part in zip(panels, ("all values", "first 50")):
        for name, values, shade, dash in lines:
            norm = np.linalg.norm(values)
            if norm == 0:
                continue
            values = values * np.linalg.norm(sigma) / norm
            values = values[:FIRST] if part == "first 50" else values
            axes.plot(
                np.arange(1, len(values) + 1),
                np.where(values > 0, values, np.nan),
                color=shade,
                ls=dash,
                lw=1.2,
                label=material.word(name) if name == "as is" else name,
            )
        axes.set(yscale="log", xlabel=material.word("index"), title=material.word(part))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(color=LIGHT, lw=0.4)
    panels[0].set_ylabel(
        f"{material.word('value')}, K\n({material.word('layer')} {layer}, {material.word('iteration')} {step})"
    )
    panels[0].legend()
    say(figure, material)
    return figure
