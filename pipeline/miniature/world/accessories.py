"""What a subject wears, holds or does: large signs in colours of their own, at one place beside every subject.

A caption can name one instead of a scene, and so leave the scene open. Sprite coordinates, as in subjects.py; all
but the hat stand where they stand whatever the kind, so that one picture in a few thousand is enough to learn them.
"""

from __future__ import annotations

from collections.abc import Callable

from svdstory.pipeline.miniature.world.canvas import Point
from svdstory.pipeline.miniature.world.subjects import Part, boxed, polygon

JUMP = 0.17  # sprite units between the ground and who jumps
# Where a hat sits: the subject's top, at shape 0 and 1.
TOPS = {
    "bus": (0.78, 0.64),
    "gift box": (0.62, 0.92),
    "house": (0.66, 0.92),
    "mushroom": (0.66, 0.94),
    "fish": (0.67, 0.79),
    "cat": (0.84, 0.84),
}


def top_of(kind: str, shape: float) -> float:
    """Where the top of a subject is, in sprite units above the ground."""
    low, high = TOPS[kind]
    return low + (high - low) * shape


def hat(top: float) -> list[Part]:
    return [
        boxed("paper", "rounded", (-0.40, top - 0.11, 0.40, top + 0.07), False),
        boxed("paper", "rounded", (-0.27, top - 0.04, 0.27, top + 0.41), False),
        boxed("ink", "box", (-0.36, top - 0.07, 0.36, top + 0.03), False),
        boxed("ink", "box", (-0.23, top - 0.04, 0.23, top + 0.37), False),
        boxed("gold", "box", (-0.23, top + 0.04, 0.23, top + 0.15), False),
    ]


def balloon(top: float) -> list[Part]:
    x, y = -0.44, 0.98
    return [
        polygon("ink", (x - 0.02, y), (x + 0.02, y), (-0.20, 0.36), (-0.25, 0.36), outlined=False),
        boxed("ink", "ellipse", (x - 0.25, y - 0.28, x + 0.25, y + 0.28), False),
        boxed("scarlet", "ellipse", (x - 0.22, y - 0.25, x + 0.22, y + 0.25), False),
        boxed("paper", "ellipse", (x - 0.14, y + 0.04, x - 0.03, y + 0.17), False),
    ]


def umbrella(top: float) -> list[Part]:
    edge, high = 0.86, 0.40
    dome: list[Part] = [
        boxed("ink", "box", (0.44, 0.0, 0.50, edge + 0.1), False),
        boxed("ink", "dome", (-0.64, edge - high - 0.03, 0.64, edge + high + 0.03), False),
        boxed("gold", "dome", (-0.61, edge - high, 0.61, edge + high), False),
        boxed("navy", "dome", (-0.36, edge - high, 0.36, edge + high), False),
        boxed("gold", "dome", (-0.12, edge - high, 0.12, edge + high), False),
    ]
    return dome


def ball(top: float) -> list[Part]:
    x, y, r = 0.42, 0.20, 0.25
    sector: Callable[[str, Point, Point], Part] = lambda role, one, other: polygon(  # noqa: E731
        role, (x, y), (x + one[0] * r, y + one[1] * r), (x + other[0] * r, y + other[1] * r), outlined=False
    )
    return [
        boxed("ink", "ellipse", (x - r - 0.03, y - r - 0.03, x + r + 0.03, y + r + 0.03), False),
        boxed("paper", "ellipse", (x - r, y - r, x + r, y + r), False),
        sector("scarlet", (0.0, 1.0), (0.87, 0.5)),
        sector("navy", (0.87, -0.5), (0.0, -1.0)),
        sector("gold", (-0.87, -0.5), (-0.87, 0.5)),
    ]


def flag(top: float) -> list[Part]:
    left, low, cell = -0.56, 0.72, 0.15
    parts = [
        boxed("paper", "box", (left - 0.06, 0.0, left + 0.03, low + 3 * cell + 0.05), False),
        boxed("ink", "box", (left - 0.035, 0.0, left + 0.005, low + 3 * cell + 0.05), False),
        boxed("paper", "box", (left, low, left + 4 * cell, low + 3 * cell), False),
    ]
    for row in range(3):
        for column in range(row % 2, 4, 2):
            x, y = left + column * cell, low + row * cell
            parts.append(boxed("ink", "box", (x, y, x + cell, y + cell), False))
    return parts


def book(top: float) -> list[Part]:
    parts = [boxed("scarlet", "rounded", (-0.46, -0.12, 0.46, 0.25), False)]
    for side in (-1, 1):
        inner, outer = sorted((side * 0.02, side * 0.40))
        parts.append(boxed("paper", "box", (inner, -0.06, outer, 0.22), False))
        for line in (0.0, 0.08, 0.16):
            near, far = sorted((side * 0.08, side * 0.34))
            parts.append(boxed("ink", "box", (near, line - 0.02, far, line + 0.02), False))
    return parts


def sleep(top: float) -> list[Part]:
    x, y = 0.42, 0.98
    return [
        boxed("navy", "ellipse", (0.10, 0.56, 0.26, 0.72), False),
        boxed("paper", "ellipse", (0.12, 0.58, 0.24, 0.70), False),
        boxed("navy", "ellipse", (x - 0.31, y - 0.28, x + 0.31, y + 0.28), False),
        boxed("paper", "ellipse", (x - 0.28, y - 0.25, x + 0.28, y + 0.25), False),
        boxed("navy", "box", (x - 0.15, y + 0.09, x + 0.15, y + 0.17), False),
        boxed("navy", "box", (x - 0.15, y - 0.17, x + 0.15, y - 0.09), False),
        polygon(
            "navy", (x + 0.04, y + 0.1), (x + 0.15, y + 0.1), (x - 0.04, y - 0.1), (x - 0.15, y - 0.1), outlined=False
        ),
    ]


def trampoline(top: float) -> list[Part]:
    legs = [boxed("ink", "box", (x - 0.04, -0.16, x + 0.04, 0.0), False) for x in (-0.46, 0.46)]
    return [
        *legs,
        boxed("gold", "ellipse", (-0.60, -0.11, 0.60, 0.13), False),
        boxed("navy", "ellipse", (-0.46, -0.06, 0.46, 0.08), False),
    ]


# Accessory or action -> what draws it, in the order of the judges' classes; and the words of its captions.
ACCESSORIES: dict[str, Callable[[float], list[Part]]] = {
    "hat": hat,
    "balloon": balloon,
    "umbrella": umbrella,
    "ball": ball,
    "flag": flag,
    "reading": book,
    "sleeping": sleep,
    "jumping": trampoline,
}
ACCESSORY_WORDS = {
    "hat": "wearing a hat",
    "balloon": "with a red balloon",
    "umbrella": "under an umbrella",
    "ball": "with a ball",
    "flag": "with a flag",
    "reading": "reading a book",
    "sleeping": "sleeping",
    "jumping": "jumping",
}
