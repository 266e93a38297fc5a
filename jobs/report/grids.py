"""Comparison grids, as a paper prints them: rows are methods, columns are settings; a hole says its cause.

Sizes are in pixels. A grid is described first (Grid), then drawn: the same description gives the same bytes.
"""

from dataclasses import dataclass, field
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from svdstory.jobs.report.escaping import drawn
from svdstory.jobs.report.fonts import face
from svdstory.jobs.study.png import png

INK, GREY, RULE = "#1b1b1b", "#6a6a6a", "#d9d6d0"
HOLE, HATCH, CAUSE = "#f6f4f0", "#e4e0d8", "#9c2b1b"
NOTE_INK, NOTE_GROUND = "#7a4b00", "#fff3d1"
GAP, MARGIN = 4, 24
HEIGHT_LIMIT, WIDTH_LIMIT = 7200, 4800  # of all cells together; cells shrink to fit, down to SMALLEST
LARGEST, SMALLEST = 256, 72


@dataclass(frozen=True)
class Row:
    """A method's pictures. parts: for each group of columns (a seed) its pictures, or the text of a hole."""

    label: str
    parts: tuple[list[Image.Image] | str, ...]


@dataclass(frozen=True)
class Grid:
    """columns: labels of one group's columns; groups: headings of the groups, not drawn if there is one alone."""

    title: str
    columns: tuple[str, ...]
    groups: tuple[str, ...]
    rows: tuple[Row, ...]
    shape: tuple[int, int]  # width, height of the pictures; only their ratio counts
    notes: tuple[str, ...] = ()
    caption: str = ""
    breaks: frozenset[int] = field(default=frozenset())  # rows before which there is a wider gap


def draw_grid(grid: Grid) -> Image.Image:
    """The grid as an RGB image."""
    width, height = cell_size(grid)
    size = max(13, min(20, width // 9))
    text, strong = font(size), font(size, bold=True)
    labels = [wrap(row.label, text, max(150, width)) for row in grid.rows]
    left = MARGIN + max([round(text.getlength(line)) for lines in labels for line in lines] or [0]) + 14
    heads = [wrap(column, text, width - 8) for column in grid.columns]
    line = round(size * 1.3)
    group_width = len(grid.columns) * (width + GAP) + 3 * GAP
    right = left + len(grid.groups) * group_width - 4 * GAP + MARGIN
    notes = [part for note in grid.notes for part in wrap(note, text, right - 2 * MARGIN - 20)]
    title = wrap(grid.title, font(size + 4, bold=True), right - 2 * MARGIN)
    caption = wrap(grid.caption, font(max(12, size - 4)), right - 2 * MARGIN) if grid.caption else []
    top = MARGIN + len(title) * round((size + 4) * 1.3) + 8 + (len(notes) * line + 20 if notes else 0)
    body = top + (line + 6 if len(grid.groups) > 1 else 0) + max(map(len, heads), default=0) * line + 8
    row_tops, y = [], body
    for i in range(len(grid.rows)):
        y += 3 * GAP if i in grid.breaks else 0
        row_tops.append(y)
        y += max(height, len(labels[i]) * line) + GAP
    canvas = Image.new("RGB", (max(right, 320), y + len(caption) * line + (12 if caption else 0) + MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    _draw_head(draw, title, notes, size, canvas.width)
    _draw_columns(draw, grid, heads, top, body, left, (width, group_width), text, strong)
    for row, lines, y0 in zip(grid.rows, labels, row_tops):
        middle = y0 + (height - len(lines) * line) // 2
        for k, label in enumerate(lines):
            draw.text((left - 14, middle + k * line), label, INK, text, anchor="ra")
        for g, part in enumerate(row.parts):
            _draw_part(canvas, draw, part, left + g * group_width, y0, (width, height), len(grid.columns), size)
    for k, text_line in enumerate(caption):
        draw.text((MARGIN, y + 12 + k * line), text_line, GREY, font(max(12, size - 4)))
    return canvas


def cell_size(grid: Grid) -> tuple[int, int]:
    """(width, height) of a cell: as large as fits, so that a grid of 45 methods stays usable."""
    columns, rows = len(grid.columns) * len(grid.groups), max(len(grid.rows), 1)
    ratio = grid.shape[1] / grid.shape[0]
    width = min(LARGEST, WIDTH_LIMIT // max(columns, 1), round(HEIGHT_LIMIT / rows / ratio))
    width = max(width, SMALLEST)
    width = next((s for s in (256, 192, 160, 128, 96, 72) if s <= width), width)
    return width, round(width * ratio)


def _draw_head(draw, title: list[str], notes: list[str], size: int, width: int) -> None:
    y = MARGIN - 6
    for line in title:
        draw.text((MARGIN, y), line, INK, font(size + 4, bold=True))
        y += round((size + 4) * 1.3)
    if notes:
        line = round(size * 1.3)
        draw.rounded_rectangle((MARGIN, y + 6, width - MARGIN, y + 14 + len(notes) * line), 4, NOTE_GROUND)
        for k, note in enumerate(notes):
            draw.text((MARGIN + 10, y + 9 + k * line), note, NOTE_INK, font(size))


def _draw_columns(draw, grid: Grid, heads, top, body, left, widths, text, strong) -> None:
    """Column labels, standing on the pictures; above them the groups' headings with a rule."""
    width, group_width = widths
    line = round(text.size * 1.3)
    for g, name in enumerate(grid.groups):
        x = left + g * group_width
        if len(grid.groups) > 1:
            draw.text((x + (group_width - 4 * GAP) / 2, top), name, INK, strong, anchor="ma")
            draw.line((x, top + line + 1, x + group_width - 4 * GAP, top + line + 1), RULE)
        for c, lines in enumerate(heads):
            for k, part in enumerate(lines):
                y = body - 8 - (len(lines) - k) * line
                draw.text((x + c * (width + GAP) + width / 2, y), part, INK, text, anchor="ma")


def _draw_part(canvas, draw, part, x: int, y: int, cell: tuple[int, int], columns: int, size: int) -> None:
    width, height = cell
    if isinstance(part, str):
        hole(draw, (x, y, x + columns * (width + GAP) - GAP - 1, y + height - 1), part, size)
        return
    for c, picture in enumerate(part):
        canvas.paste(fitted(picture, cell), (x + c * (width + GAP), y))


def fitted(picture: Image.Image, cell: tuple[int, int]) -> Image.Image:
    """The picture at the cell's size; small ones are enlarged by whole pixels, so that nothing is invented."""
    if picture.size == cell:
        return picture
    enlarges = cell[0] >= picture.width
    kind = Image.Resampling.NEAREST if enlarges and cell[0] % picture.width == 0 else Image.Resampling.LANCZOS
    return picture.resize(cell, kind)


def hole(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], cause: str, size: int) -> None:
    """A hatched place without pictures, with its cause."""
    x0, y0, x1, y1 = box
    draw.rectangle(box, HOLE, HATCH)
    for offset in range(12, (x1 - x0) + (y1 - y0), 12):
        a, b = min(offset, x1 - x0), min(offset, y1 - y0)
        draw.line((x0 + a, y0 + offset - a, x0 + offset - b, y0 + b), HATCH)
    text = font(size)
    line = round(size * 1.3)
    room = max((y1 - y0) // line, 1)
    lines = wrap(cause, text, x1 - x0 - 10)
    lines = lines if len(lines) <= room else [*lines[: room - 1], lines[room - 1].rstrip() + " …"]
    top = (y0 + y1 - len(lines) * line) // 2
    for k, part in enumerate(lines):
        draw.text(((x0 + x1) / 2, top + k * line), part, CAUSE, text, anchor="ma")


def wrap(text: str, face: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines no wider than `width`: broken at spaces, after dashes and slashes, and inside words that fit no line."""
    lines, line = [], ""
    for piece in _pieces(drawn(text)):
        if line and face.getlength((line + piece).rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        while face.getlength(piece.rstrip()) > width and len(piece) > 1:
            fits = next(n for n in range(len(piece) - 1, 0, -1) if n == 1 or face.getlength(piece[:n]) <= width)
            lines.append(piece[:fits])
            piece = piece[fits:]
        line += piece
    return [*lines, line.rstrip()] if line.strip() or not lines else lines


def _pieces(text: str) -> list[str]:
    pieces, current = [], ""
    for letter in text:
        current += letter
        if letter in " -/+":
            pieces.append(current)
            current = ""
    return [*pieces, current] if current else pieces


def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The run's font (fonts.py) at a size in pixels."""
    return _opened(face(bold), size)


_opened = lru_cache(ImageFont.truetype)


def report_png(image: Image.Image, chunks: dict[str, str]) -> bytes:
    """As the worker's, but faster to write: a report has large ones."""
    return png(image, chunks, level=4)


def cause_png(cause: str, chunks: dict[str, str]) -> bytes:
    """What stands in the place of a picture that could not be drawn."""
    canvas = Image.new("RGB", (800, 200), "white")
    hole(ImageDraw.Draw(canvas), (0, 0, 799, 199), f"not drawn: {cause}", 16)
    return report_png(canvas, chunks)
