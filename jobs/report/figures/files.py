"""The figures of a report as files: figures/<name>.png for looking, .pdf for LaTeX, and why others were not drawn."""

import io
import json
from functools import lru_cache

from PIL import Image

from svdstory.jobs.report.draft import Draft
from svdstory.jobs.report.figures import FIGURES, Figure, chosen
from svdstory.jobs.report.figures.material import Material
from svdstory.jobs.report.grids import png

REASONS = "figures/not-drawn.json"


def add_figures(
    draft: Draft, material: Material, names: list[str] | None, reads: dict[str, str], chunks: dict[str, str]
) -> dict[str, str]:
    """Add the figures of these names (None: all). Returns name -> why not, for those that the run does not give.

    reads: what figures depend on -> its digest. matplotlib is loaded only if something has changed.
    """
    figures = chosen(names)
    draft.add(
        REASONS,
        ["not drawn", sorted(f.name for f in figures), material.lang, reads],
        lambda: json.dumps({f.name: why for f in figures if (why := f.why_not(material))}, indent=1).encode(),
    )
    reasons = json.loads(draft.read(REASONS))
    for figure in figures:
        if figure.name not in reasons:
            add_figure(draft, material, figure, reads, chunks)
    return reasons


def add_figure(draft: Draft, material: Material, figure: Figure, reads: dict[str, str], chunks: dict[str, str]) -> None:
    @lru_cache
    def drawn() -> tuple[bytes, bytes]:
        from svdstory.jobs.report.figures.style import files

        return files(figure.draw(material))

    inputs = ["figure", material.lang, [reads[kind] for kind in figure.reads]]
    draft.add(f"figures/{figure.name}.png", inputs, lambda: _with_chunks(drawn()[0], chunks))
    draft.add(f"figures/{figure.name}.pdf", inputs, lambda: drawn()[1])


def _with_chunks(content: bytes, chunks: dict[str, str]) -> bytes:
    return png(Image.open(io.BytesIO(content)).convert("RGB"), chunks)


def captions(lang: str) -> dict[str, str]:
    return {name: figure.about[("en", "ru").index(lang)] for name, figure in FIGURES.items()}
