"""The figures of a report as files: figures/<name>.png for looking, .pdf for LaTeX, and why others were not drawn."""

import io
import json
from collections.abc import Callable
from functools import lru_cache

from PIL import Image

from svdstory.jobs.report.draft import Draft, concerns_the_run
from svdstory.jobs.report.figures import FIGURES, Figure, chosen
from svdstory.jobs.report.figures.material import Material
from svdstory.jobs.report.grids import cause_png, report_png

REASONS = "figures/not-drawn.json"


def add_figures(
    draft: Draft, material: Material, names: list[str] | None, reads: dict[str, str], chunks: dict[str, str]
) -> dict[str, str]:
    """Add the figures of these names (None: all). Returns name -> why not, for those that the run does not give.

    reads: what figures depend on -> its digest. matplotlib is loaded only if something has changed.
    """
    figures = chosen(names)

    def reasons_by(ask: Callable[[Figure, Material], str]) -> bytes:
        return json.dumps({f.name: why for f in figures if (why := ask(f, material))}, indent=1).encode()

    inputs = ["not drawn", sorted(f.name for f in figures), material.lang, reads]
    draft.add(REASONS, inputs, lambda: reasons_by(Figure.why_not), lambda cause: reasons_by(_why_not))
    reasons = json.loads(draft.read(REASONS))
    for figure in figures:
        if figure.name not in reasons:
            add_figure(draft, material, figure, reads, chunks)
    return reasons


def add_figure(draft: Draft, material: Material, figure: Figure, reads: dict[str, str], chunks: dict[str, str]) -> None:
    """A figure that fails leaves its cause in its place."""

    @lru_cache
    def drawn() -> tuple[bytes, bytes]:
        from svdstory.jobs.report.figures.style import files

        return files(figure.draw(material))

    name, inputs = f"figures/{figure.name}", ["figure", material.lang, [reads[kind] for kind in figure.reads]]
    draft.add(f"{name}.png", inputs, lambda: _with_chunks(drawn()[0], chunks), lambda cause: cause_png(cause, chunks))
    if f"{name}.png" not in draft.broken:
        draft.add(f"{name}.pdf", inputs, lambda: drawn()[1])


def _why_not(figure: Figure, material: Material) -> str:
    """A figure whose own question fails is drawn all the same: if it cannot be, its place says the cause."""
    try:
        return figure.why_not(material)
    except Exception as error:
        if concerns_the_run(error):
            raise
        return ""


def _with_chunks(content: bytes, chunks: dict[str, str]) -> bytes:
    return report_png(Image.open(io.BytesIO(content)).convert("RGB"), chunks)


def captions(lang: str) -> dict[str, str]:
    return {name: figure.about[("en", "ru").index(lang)] for name, figure in FIGURES.items()}
