"""Scenes under an open sky: desert, snow and meadow, each in three looks that no caption tells.

A look changes palette and what stands about, and leaves the scene what it is. The ground is below y = HORIZON.
"""

from __future__ import annotations

import numpy as np

from svdstory.pipeline.miniature.world.canvas import Canvas, Colour

HORIZON = 0.66


def _side(rng: np.random.Generator) -> float:
    """Beside the subject, left or right."""
    return rng.uniform(0.05, 0.13) if rng.random() < 0.5 else rng.uniform(0.87, 0.95)


def desert(canvas: Canvas, rng: np.random.Generator, look: str) -> None:
    top, bottom, sun, far, near = {
        "noon": ((255, 196, 120), (255, 236, 190), (255, 248, 206), (232, 160, 88), (244, 190, 116)),
        "sunset": ((214, 60, 84), (255, 150, 60), (255, 232, 96), (176, 74, 44), (216, 104, 48)),
        "pyramids": ((255, 214, 90), (255, 240, 170), (255, 120, 40), (222, 150, 40), (238, 180, 60)),
    }[look]
    canvas.gradient(top, bottom)
    canvas.disc(rng.uniform(0.15, 0.85), 0.15, 0.085, sun)
    canvas.ridge(HORIZON - 0.04, 0.07, 0.9, rng.uniform(0, 6.28), far)
    side = _side(rng)
    if look == "pyramids":
        _pyramid(canvas, side, 0.74, rng.uniform(0.26, 0.34))
        _pyramid(canvas, 1.0 - side, 0.74, rng.uniform(0.2, 0.28))
    else:
        _cactus(canvas, side, 0.74, rng.uniform(0.34, 0.46), (74, 140, 74) if look == "noon" else (46, 60, 50))
    canvas.ridge(HORIZON + 0.07, 0.03, 0.7, rng.uniform(0, 6.28), near)


def _cactus(canvas: Canvas, x: float, foot: float, height: float, green: Colour) -> None:
    top = foot - height
    canvas.rounded((x - 0.032, top, x + 0.032, foot), 0.03, green)
    for side, lift in ((-1, 0.42), (1, 0.28)):
        elbow = top + lift * height
        inner, outer = sorted((x, x + side * 0.09))
        canvas.rounded((inner, elbow, outer, elbow + 0.05), 0.022, green)
        arm = x + side * 0.08
        canvas.rounded((arm - 0.024, elbow - 0.12, arm + 0.024, elbow + 0.05), 0.024, green)


def _pyramid(canvas: Canvas, x: float, foot: float, height: float) -> None:
    canvas.polygon([(x, foot - height), (x - height, foot), (x + height, foot)], (184, 112, 36))
    canvas.polygon([(x, foot - height), (x + 0.3 * height, foot), (x + height, foot)], (136, 78, 28))


def snow(canvas: Canvas, rng: np.random.Generator, look: str) -> None:
    top, bottom, far, near = {
        "day": ((150, 178, 212), (222, 234, 246), (226, 236, 246), (250, 252, 255)),
        "dawn": ((246, 132, 164), (255, 214, 206), (250, 222, 234), (255, 244, 250)),
        "dusk": ((96, 84, 186), (190, 176, 240), (206, 202, 246), (234, 236, 255)),
    }[look]
    canvas.gradient(top, bottom)
    canvas.ridge(HORIZON - 0.05, 0.05, 0.8, rng.uniform(0, 6.28), far)
    for x in (rng.uniform(0.04, 0.2), rng.uniform(0.8, 0.96), rng.uniform(0.3, 0.7)):
        height = rng.uniform(0.34, 0.5)
        if look != "dusk":
            _fir(canvas, x, 0.7, height)
    canvas.ridge(HORIZON + 0.05, 0.025, 0.6, rng.uniform(0, 6.28), near)
    if look == "dusk":
        _snowman(canvas, _side(rng), 0.78)
    for x, y in rng.uniform((0.0, 0.0), (1.0, 0.6), size=(10, 2)):
        canvas.disc(x, y, 0.013, (255, 255, 255))


def _fir(canvas: Canvas, x: float, foot: float, height: float) -> None:
    canvas.rectangle((x - 0.018, foot - 0.08, x + 0.018, foot), (96, 76, 70))
    for tier in range(3):
        width = 0.115 - 0.028 * tier
        base = foot - 0.05 - tier * 0.27 * height
        top = base - 0.46 * height
        canvas.polygon([(x, top), (x - width, base), (x + width, base)], (64, 116, 118))
        half, snow_line = 0.35 * width, top + 0.35 * (base - top)
        canvas.polygon([(x, top), (x - half, snow_line), (x + half, snow_line)], (238, 246, 252))


def _snowman(canvas: Canvas, x: float, foot: float) -> None:
    for lift, radius in ((0.09, 0.11), (0.26, 0.085), (0.39, 0.062)):
        canvas.disc(x, foot - lift, radius + 0.012, (120, 120, 190))
        canvas.disc(x, foot - lift, radius, (255, 255, 255))
    for shift in (-0.025, 0.025):
        canvas.disc(x + shift, foot - 0.4, 0.013, (30, 30, 50))
    canvas.polygon([(x - 0.01, foot - 0.385), (x - 0.01, foot - 0.36), (x + 0.07, foot - 0.37)], (250, 130, 30))


def meadow(canvas: Canvas, rng: np.random.Generator, look: str) -> None:
    top, bottom, cloud, far, near, petal = {
        "summer": ((92, 174, 246), (206, 234, 255), (255, 255, 255), (134, 202, 98), (88, 170, 72), (255, 250, 240)),
        "evening": ((120, 214, 222), (255, 246, 160), (255, 214, 120), (70, 160, 60), (36, 126, 48), (236, 40, 50)),
        "spring": ((70, 150, 255), (180, 214, 255), (255, 255, 255), (176, 224, 70), (128, 204, 44), (214, 90, 240)),
    }[look]
    canvas.gradient(top, bottom)
    for x, y in ((rng.uniform(0.05, 0.4), rng.uniform(0.1, 0.2)), (rng.uniform(0.6, 0.95), rng.uniform(0.12, 0.28))):
        for shift, lift, radius in ((-0.08, 0.02, 0.05), (0.0, 0.0, 0.07), (0.08, 0.02, 0.055)):
            canvas.disc(x + shift, y + lift, radius, cloud)
    canvas.ridge(HORIZON - 0.07, 0.06, 0.8, rng.uniform(0, 6.28), far)
    canvas.ridge(HORIZON + 0.05, 0.03, 0.7, rng.uniform(0, 6.28), near)
    if look == "spring":
        _blossom_tree(canvas, _side(rng), 0.72)
    for x, y in rng.uniform((0.03, 0.78), (0.97, 0.97), size=(7, 2)):
        canvas.disc(x, y, 0.024 if look == "summer" else 0.03, petal)
        canvas.disc(x, y, 0.011, (255, 200, 40))


def _blossom_tree(canvas: Canvas, x: float, foot: float) -> None:
    canvas.rectangle((x - 0.02, foot - 0.24, x + 0.02, foot), (110, 70, 50))
    for shift, lift, radius in ((-0.07, 0.28, 0.075), (0.07, 0.28, 0.075), (0.0, 0.38, 0.09)):
        canvas.disc(x + shift, foot - lift, radius, (255, 160, 206))
