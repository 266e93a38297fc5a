"""The overview: all prompt sets (rows) by all methods (columns) on one picture, four images to a cell."""

from pathlib import Path

from PIL import Image, ImageDraw

from svdstory.jobs.report.cells import Place, Study
from svdstory.jobs.report.grids import (
    CAUSE,
    GAP,
    GREY,
    HATCH,
    HOLE,
    INK,
    MARGIN,
    NOTE_GROUND,
    NOTE_INK,
    fitted,
    font,
    wrap,
)
from svdstory.jobs.report.labels import method_label
from svdstory.jobs.report.thumbnails import Pack

LIMIT = 9600  # pixels of the longer side; cells shrink to fit
LARGEST, SMALLEST = 96, 32
TEXT = 14


def draw_overview(study: Study, packs: dict[str, Path], lang: str = "en") -> Image.Image:
    """Each cell holds the first four images of the set's first seed, or a hole. One set's images at a time."""
    sets, methods = list(study.plan.sets), list(study.plan.methods)
    side = max(SMALLEST, min(LARGEST, LIMIT // max(len(sets), len(methods), 1)))
    text, line = font(TEXT), round(TEXT * 1.3)
    titles = [method_label(m, lang) for m in methods]
    head, labels = _slanted(titles, text), [wrap(name, text, 240)[: max(1, side // line)] for name in sets]
    left = MARGIN + max(round(text.getlength(part)) for lines in labels for part in lines) + 12
    right = left + len(methods) * (side + GAP) + head.width  # room for the last label
    notes = [part for note in study.notes for part in wrap(note, text, right - 2 * MARGIN)]
    top = MARGIN + len(notes) * line + (14 if notes else 0) + head.height + 6
    canvas = Image.new("RGB", (right, top + len(sets) * (side + GAP) + line + MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    if notes:
        draw.rounded_rectangle((MARGIN, MARGIN - 6, right - MARGIN, MARGIN + 4 + len(notes) * line), 4, NOTE_GROUND)
    for k, note in enumerate(notes):
        draw.text((MARGIN + 8, MARGIN - 2 + k * line), note, NOTE_INK, text)
    _draw_slanted(canvas, titles, text, left, top - 6, side)
    seeds = first_seeds(study)
    for r, set_name in enumerate(sets):
        y = top + r * (side + GAP)
        for k, part in enumerate(labels[r]):
            draw.text((left - 12, y + (side - len(labels[r]) * line) // 2 + k * line), part, INK, text, anchor="ra")
        at = {p.cell.method: p for p in study.by_set[set_name] if p.cell.seed == seeds[set_name]}
        thumbnails = Pack(packs[set_name])
        for c, method in enumerate(methods):
            canvas.paste(tile(at[method], thumbnails, side), (left + c * (side + GAP), y))
    foot = f"Each cell: the first images of the set's first seed. Hatched: {_holes(study)}"
    draw.text((left, top + len(sets) * (side + GAP) + 6), foot, GREY, font(12))
    return canvas


def first_seeds(study: Study) -> dict[str, int]:
    return {name: places[0].cell.seed for name, places in study.by_set.items()}


def tile(place: Place, thumbnails: Pack, side: int) -> Image.Image:
    """Up to four images two by two, or a hatched square with the first letter of its state."""
    cell = Image.new("RGB", (side, side), HOLE if place.hole else "white")
    if place.hole:
        draw = ImageDraw.Draw(cell)
        for offset in range(8, 2 * side, 8):
            draw.line((offset, 0, 0, offset), HATCH)
        draw.text((side / 2, side / 2), place.state, CAUSE, font(max(9, side // 7)), anchor="mm")
        return cell
    half = (side - 1) // 2
    for i, picture in enumerate(place.pictures[:4]):
        whole = thumbnails[picture.sha256]
        box = fitted(whole, (half, max(1, round(half * whole.height / whole.width))))
        cell.paste(box.crop((0, 0, half, half)), ((i % 2) * (half + 1), (i // 2) * (half + 1)))
    return cell


def _holes(study: Study) -> str:
    total = sum(bool(place.hole) for place in study.places)
    return f"{total} of {len(study.places)} cells are not there." if total else "none; every cell is there."


def _slanted(labels: list[str], text) -> Image.Image:
    """An empty image as large as the tallest label stands when turned by 45 degrees."""
    longest = max(round(text.getlength(label)) for label in labels)
    side = round((longest + text.size * 1.3) * 0.7072) + 2
    return Image.new("L", (side, side))


def _draw_slanted(canvas: Image.Image, labels: list[str], text, left: int, bottom: int, side: int) -> None:
    """Column labels that rise to the right by 45 degrees, so that 45 of them can be read."""
    ink = Image.new("RGB", canvas.size, INK)
    for c, label in enumerate(labels):
        strip = Image.new("L", (round(text.getlength(label)) + 2, round(text.size * 1.4)))
        ImageDraw.Draw(strip).text((0, 0), label, 255, text)
        turned = strip.rotate(45, expand=True, resample=Image.Resampling.BICUBIC)
        x = left + c * (side + GAP) + side // 2 - round(strip.height * 0.35)
        canvas.paste(ink.crop((0, 0, *turned.size)), (x, bottom - turned.height), turned)
