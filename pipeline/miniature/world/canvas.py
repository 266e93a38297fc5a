"""A drawing surface in unit coordinates, drawn large and reduced, so that small pictures look crisp.

x runs right and y runs down, both in 0..1 whatever the picture's size. Colours are RGB triples, 0..255.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]
Box = tuple[float, float, float, float]

SUPERSAMPLE = 4


class Canvas:
    """An RGB picture of `size` pixels that is drawn at SUPERSAMPLE times that."""

    def __init__(self, size: int):
        self.size = size
        self.pixels = size * SUPERSAMPLE
        self.image = Image.new("RGB", (self.pixels, self.pixels))
        self.draw = ImageDraw.Draw(self.image)

    def _scaled(self, numbers: Sequence[float]) -> list[float]:
        return [number * self.pixels for number in numbers]

    def gradient(self, top: Colour, bottom: Colour) -> None:
        """Fill the whole surface from `top` to `bottom`."""
        fade = np.linspace(0.0, 1.0, self.pixels)[:, None]
        column = np.asarray(top) * (1 - fade) + np.asarray(bottom) * fade
        column_image = Image.fromarray(column.astype(np.uint8)[:, None, :])
        self.image.paste(column_image.resize((self.pixels, self.pixels), Image.Resampling.NEAREST))

    def rectangle(self, box: Box, fill: Colour) -> None:
        self.draw.rectangle(self._scaled(box), fill=fill)

    def ellipse(self, box: Box, fill: Colour) -> None:
        self.draw.ellipse(self._scaled(box), fill=fill)

    def disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        self.ellipse((x - radius, y - radius, x + radius, y + radius), fill)

    def ring(self, x: float, y: float, radius: float, line: Colour) -> None:
        box = self._scaled((x - radius, y - radius, x + radius, y + radius))
        self.draw.ellipse(box, outline=line, width=max(1, round(0.014 * self.pixels)))

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        self.draw.polygon([(x * self.pixels, y * self.pixels) for x, y in points], fill=fill)

    def rounded(self, box: Box, radius: float, fill: Colour) -> None:
        self.draw.rounded_rectangle(self._scaled(box), radius=radius * self.pixels, fill=fill)

    def ridge(self, level: float, height: float, waves: float, phase: float, fill: Colour) -> None:
        """Everything below the curve y = level - height * sin(2 pi waves x + phase)."""
        xs = np.linspace(0.0, 1.0, 33)
        ys = level - height * np.sin(2 * np.pi * waves * xs + phase)
        self.polygon([*zip(xs.tolist(), ys.tolist()), (1.0, 1.0), (0.0, 1.0)], fill)

    def reduced(self) -> Image.Image:
        """The finished picture, `size` × `size`."""
        return self.image.reduce(SUPERSAMPLE)
