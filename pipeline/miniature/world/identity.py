"""Who a subject is: what a caption does not say, and what a consistent set has to keep.

Hues are angles in degrees on the HSV circle. They come from eight well-separated colours, so that a stranger
sees at once whether two subjects have the same one; independent draws are 90° apart on average.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from svdstory.pipeline.miniature.world.canvas import Colour

PATTERNS = ("plain", "striped")

# Hue in degrees -> (name, body colour). Spaced evenly; saturation and value are tuned by eye per hue.
PALETTE: dict[int, tuple[str, Colour]] = {
    0: ("red", (224, 40, 40)),
    45: ("yellow", (250, 194, 26)),
    90: ("lime", (134, 216, 52)),
    135: ("green", (20, 148, 52)),
    180: ("turquoise", (44, 208, 208)),
    225: ("blue", (44, 84, 226)),
    270: ("purple", (136, 56, 216)),
    315: ("pink", (246, 92, 208)),
}
HUES = tuple(PALETTE)


@dataclass(frozen=True)
class Identity:
    """body_hue, accent_hue: degrees, from HUES; pattern: from PATTERNS; shape: 0..1, the kind's own proportion."""

    body_hue: int
    accent_hue: int
    pattern: str
    shape: float

    def __post_init__(self) -> None:
        for name, hue in (("body_hue", self.body_hue), ("accent_hue", self.accent_hue)):
            if hue not in PALETTE:
                raise ValueError(f"Identity.{name}: got {hue}, expected one of {', '.join(map(str, HUES))} (degrees).")
        if self.pattern not in PATTERNS:
            raise ValueError(f"Identity.pattern: got {self.pattern!r}, expected one of {', '.join(PATTERNS)}.")
        if not 0.0 <= self.shape <= 1.0:
            raise ValueError(f"Identity.shape: got {self.shape}, expected 0..1.")

    @property
    def body_name(self) -> str:
        """The word a caption uses for the body's colour."""
        return PALETTE[self.body_hue][0]

    @property
    def body_colour(self) -> Colour:
        return PALETTE[self.body_hue][1]

    @property
    def accent_colour(self) -> Colour:
        return PALETTE[self.accent_hue][1]


def draw_identity(rng: np.random.Generator) -> Identity:
    """An identity at random: every body hue alike, an accent at least 90° away from it, patterns half and half."""
    body = int(rng.integers(len(HUES)))
    accent = (body + int(rng.integers(2, len(HUES) - 1))) % len(HUES)
    pattern = PATTERNS[int(rng.integers(len(PATTERNS)))]
    return Identity(HUES[body], HUES[accent], pattern, round(float(rng.uniform()), 3))
