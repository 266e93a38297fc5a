"""How figures look: one place for fonts, colours, notes and files. Sizes are in inches, as LaTeX takes them."""

import io

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the choice of backend)
from matplotlib.colors import LinearSegmentedColormap  # noqa: E402

from svdstory.jobs.report.escaping import plotted  # noqa: E402
from svdstory.jobs.report.figures.material import Material  # noqa: E402

INK, GREY, LIGHT, NOTE, NOTE_GROUND = "#1b1b1b", "#6a6a6a", "#d9d6d0", "#7a4b00", "#fff3d1"
FAMILIES = {"sdxl": "#8b8b8b", "consistory": "#3567a8", "unmasked": "#8a5aa3", "svd": "#c4512d", "random": "#3f8f62"}
OTHER = "#2f8a8a"
SEQUENCE = LinearSegmentedColormap.from_list("paper", ["#f7f4ee", "#e9c9a4", "#cf7d4c", "#8f3a2b", "#43182a"])
WIDTH = 6.3  # of a text column on A4

plt.rcParams.update(
    {
        "font.family": "DejaVu Sans",
        "font.size": 8,
        "axes.titlesize": 9,
        "axes.labelsize": 8,
        "axes.edgecolor": GREY,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 7,
        "pdf.fonttype": 42,
        "svg.hashsalt": "svdstory",
        "figure.dpi": 100,
        "savefig.dpi": 200,
        "savefig.bbox": "tight",
        "savefig.pad_inches": 0.08,
        "axes.unicode_minus": True,
    }
)


def colour(method: str) -> str:
    return FAMILIES.get(method.split("-")[0], OTHER)


def say(figure, material: Material, *metrics: str, above: float = 0.08) -> None:
    """What must be known before believing the figure, so many inches above it."""
    notes = []
    if material.study.plan.model.note:
        notes.append(
            f"{plotted(material.study.plan.model.name)}: {material.word('noise')}"
            if "noise" in material.study.plan.model.note
            else plotted(material.study.plan.model.note)
        )
    if metrics and material.random(*metrics):
        notes.append(material.word("random"))
    if notes:
        figure.text(
            0.0,
            1 + above / figure.get_figheight(),
            "\n".join(notes),
            color=NOTE,
            va="bottom",
            ha="left",
            fontsize=8,
            bbox={"facecolor": NOTE_GROUND, "edgecolor": "none", "pad": 4},
        )


def files(figure) -> tuple[bytes, bytes]:
    """(PNG, PDF) without dates: the same figure gives the same bytes."""
    png, pdf = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    figure.savefig(
        pdf, format="pdf", metadata={"CreationDate": None, "ModDate": None, "Producer": None, "Creator": "svdstory"}
    )
    plt.close(figure)
    return png.getvalue(), pdf.getvalue()
