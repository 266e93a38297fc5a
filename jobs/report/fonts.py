"""The font of the report's pictures: DejaVu Sans (it has Cyrillic), or the file that an experiment names; and the
characters that it cannot draw."""

import importlib.util
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path

from svdstory.jobs.study.plan import Plan

FACE: ContextVar[str | None] = ContextVar("face", default=None)  # the file that is drawn with; None: DejaVu Sans
SHOWN = 12  # characters that a note quotes


def face(bold: bool = False) -> str:
    """The file to draw with."""
    return FACE.get() or shipped(bold)


def shipped(bold: bool = False) -> str:
    """DejaVu Sans as matplotlib ships it; matplotlib itself is not imported."""
    folder = Path(importlib.util.find_spec("matplotlib").origin).parent / "mpl-data" / "fonts" / "ttf"
    return str(folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"))


@contextmanager
def drawn_in(path: str | None) -> Iterator[None]:
    """Grids and figures inside are drawn in this font, figures in DejaVu Sans what it lacks."""
    if path is None:
        yield
        return
    from matplotlib import font_manager, rc_context

    import svdstory.jobs.report.figures.style  # noqa: F401  its settings come first: the context puts back what it found

    font_manager.fontManager.addfont(path)
    family = font_manager.FontProperties(fname=path).get_name()
    token = FACE.set(path)
    try:
        with rc_context({"font.family": [family, "DejaVu Sans"]}):
            yield
    finally:
        FACE.reset(token)


def lacking(plan: Plan) -> str:
    """What a reader should know of characters that the plan's font has no glyph for; empty where it has all."""
    texts = [text for p in plan.sets.values() for text in (p.name, p.group, p.style, p.subject, *p.settings)]
    path = plan.font or shipped()
    signs = {c for text in [*texts, *plan.methods] for c in text if unicodedata.category(c)[0] not in "CMZ"}
    missing = sorted(c for c in signs if ord(c) not in _glyphs(path))
    if not missing:
        return ""
    some = "".join(missing[:SHOWN]) + ("..." if len(missing) > SHOWN else "")
    return (
        f"{Path(path).name} has no glyphs for {len(missing)} characters ({some}): they are empty boxes in pictures. "
        "Name a font file that has them in the experiment (font: FILE)"
    )


@lru_cache
def _glyphs(path: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(path).get_charmap())
