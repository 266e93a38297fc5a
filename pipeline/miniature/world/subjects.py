"""The world's subjects as lists of flat parts, in sprite coordinates.

x runs from -0.5 to 0.5, y runs up from the ground at 0 to about 1. Each kind is a function of its one shape
parameter in 0..1: how long a bus is, how tall a gift box, how steep a roof, how high a cap, how round a fish, how
big a cat's ears. A part's `role` says what colours it: the identity's body (with its pattern) or accent, or a
colour of the kind's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from svdstory.pipeline.miniature.world.canvas import Box, Colour, Point

OWN_COLOURS: dict[str, Colour] = {
    "ink": (34, 30, 42),
    "paper": (252, 248, 240),
    "glass": (206, 234, 250),
    "wood": (122, 78, 52),
    "cream": (246, 228, 200),
    "scarlet": (232, 24, 36),
    "gold": (255, 210, 30),
    "navy": (24, 36, 140),
}


@dataclass(frozen=True)
class Part:
    """One filled outline. `form`: box, rounded, ellipse, dome (upper half of an ellipse) or polygon."""

    role: str
    form: str
    points: tuple[Point, ...]
    outlined: bool = True


def boxed(role: str, form: str, box: Box, outlined: bool = True) -> Part:
    """One that fills a box (left, bottom, right, top)."""
    left, bottom, right, top = box
    return Part(role, form, ((left, bottom), (right, top)), outlined)


def polygon(role: str, *points: Point, outlined: bool = True) -> Part:
    """One of straight edges."""
    return Part(role, "polygon", points, outlined)


def _eye(x: float, y: float, size: float = 0.062) -> list[Part]:
    white = boxed("paper", "ellipse", (x - size, y - size, x + size, y + size), False)
    pupil = 0.6 * size
    return [white, boxed("ink", "ellipse", (x - pupil, y - pupil, x + pupil, y + pupil), False)]


def bus(shape: float) -> list[Part]:
    half = 0.40 + 0.18 * shape
    top = 0.78 - 0.14 * shape
    parts = [
        boxed("body", "rounded", (-half, 0.12, half, top)),
        boxed("accent", "box", (-half, 0.20, half, 0.31), False),
    ]
    pane = (2 * half - 0.08) / 3
    for number in range(3):
        left = -half + 0.06 + number * pane
        parts.append(boxed("glass", "box", (left, 0.41, left + pane - 0.045, top - 0.09), False))
    for x in (-0.55 * half, 0.55 * half):
        parts.append(boxed("ink", "ellipse", (x - 0.13, -0.01, x + 0.13, 0.25), False))
        parts.append(boxed("paper", "ellipse", (x - 0.05, 0.07, x + 0.05, 0.17), False))
    return parts


def gift_box(shape: float) -> list[Part]:
    top = 0.38 + 0.30 * shape
    half = 0.43 - 0.06 * shape
    return [
        boxed("body", "box", (-half, 0.0, half, top)),
        boxed("body", "box", (-half - 0.06, top, half + 0.06, top + 0.14)),
        boxed("accent", "box", (-0.085, 0.0, 0.085, top + 0.14), False),
        boxed("accent", "ellipse", (-0.30, top + 0.12, -0.01, top + 0.32)),
        boxed("accent", "ellipse", (0.01, top + 0.12, 0.30, top + 0.32)),
        boxed("accent", "ellipse", (-0.085, top + 0.12, 0.085, top + 0.27)),
    ]


def house(shape: float) -> list[Part]:
    eaves = 0.50
    peak = eaves + 0.22 + 0.30 * shape
    return [
        boxed("accent", "box", (0.18, eaves, 0.30, peak)),
        boxed("body", "box", (-0.41, 0.0, 0.41, eaves)),
        polygon("accent", (-0.52, eaves - 0.02), (0.0, peak), (0.52, eaves - 0.02)),
        boxed("wood", "box", (-0.30, 0.0, -0.08, 0.34), False),
        boxed("glass", "box", (0.06, 0.17, 0.30, 0.38), False),
    ]


def mushroom(shape: float) -> list[Part]:
    rim = 0.38
    top = 0.68 + 0.30 * shape
    half = 0.52 - 0.08 * shape
    return [
        boxed("cream", "rounded", (-0.20, 0.0, 0.20, rim + 0.08)),
        boxed("ink", "ellipse", (-0.12, 0.16, -0.04, 0.28), False),
        boxed("ink", "ellipse", (0.04, 0.16, 0.12, 0.28), False),
        boxed("body", "dome", (-half, 2 * (rim + 0.06) - top, half, top)),
        boxed("accent", "rounded", (-half, rim - 0.05, half, rim + 0.08)),
    ]


def fish(shape: float) -> list[Part]:
    middle, half = 0.45, 0.22 + 0.12 * shape
    return [
        polygon("accent", (0.22, middle), (0.56, middle + 0.28), (0.48, middle), (0.56, middle - 0.28)),
        polygon("accent", (-0.22, middle + 0.6 * half), (0.06, middle + half + 0.2), (0.22, middle + 0.5 * half)),
        boxed("body", "ellipse", (-0.54, middle - half, 0.34, middle + half)),
        polygon("accent", (-0.14, middle - 0.02), (0.10, middle + 0.10), (0.10, middle - 0.14)),
        *_eye(-0.34, middle + 0.07, 0.075),
    ]


def cat(shape: float) -> list[Part]:
    ear = 0.86 + 0.16 * shape
    parts = [
        boxed("body", "ellipse", (0.12, 0.02, 0.54, 0.20)),
        boxed("body", "ellipse", (-0.30, 0.0, 0.30, 0.52)),
        boxed("accent", "ellipse", (-0.15, 0.02, 0.15, 0.36), False),
    ]
    for side in (-1, 1):
        parts.append(polygon("body", (side * 0.37, 0.60), (side * 0.34, ear), (side * 0.08, 0.80)))
    parts.append(boxed("body", "ellipse", (-0.40, 0.36, 0.40, 0.88)))
    parts.append(boxed("accent", "box", (-0.24, 0.35, 0.24, 0.43), False))
    return (
        parts
        + _eye(-0.17, 0.66, 0.085)
        + _eye(0.17, 0.66, 0.085)
        + [
            polygon("ink", (-0.05, 0.555), (0.05, 0.555), (0.0, 0.49)),
        ]
    )


# Kind -> its parts, in the order of the judges' classes. The key is also the word of the captions.
SUBJECTS: dict[str, Callable[[float], list[Part]]] = {
    "bus": bus,
    "gift box": gift_box,
    "house": house,
    "mushroom": mushroom,
    "fish": fish,
    "cat": cat,
}
