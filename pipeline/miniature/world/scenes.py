"""The world's scenes: what a picture's setting says, each with variation of its own.

A scene is a function (canvas, generator) that fills the whole canvas. The ground is below y = HORIZON.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from svdstory.pipeline.miniature.world.canvas import Canvas, Colour

HORIZON = 0.66


def desert(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.gradient((255, 196, 120), (255, 236, 190))
    canvas.disc(rng.uniform(0.15, 0.85), 0.15, 0.085, (255, 248, 206))
    canvas.ridge(HORIZON - 0.04, 0.07, 0.9, rng.uniform(0, 6.28), (232, 160, 88))
    side = rng.uniform(0.05, 0.13) if rng.random() < 0.5 else rng.uniform(0.87, 0.95)
    _cactus(canvas, side, 0.74, rng.uniform(0.34, 0.46))
    canvas.ridge(HORIZON + 0.07, 0.03, 0.7, rng.uniform(0, 6.28), (244, 190, 116))


def _cactus(canvas: Canvas, x: float, foot: float, height: float) -> None:
    green: Colour = (74, 140, 74)
    top = foot - height
    canvas.rounded((x - 0.032, top, x + 0.032, foot), 0.03, green)
    for side, lift in ((-1, 0.42), (1, 0.28)):
        elbow = top + lift * height
        inner, outer = sorted((x, x + side * 0.09))
        canvas.rounded((inner, elbow, outer, elbow + 0.05), 0.022, green)
        arm = x + side * 0.08
        canvas.rounded((arm - 0.024, elbow - 0.12, arm + 0.024, elbow + 0.05), 0.024, green)


def snow(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.gradient((150, 178, 212), (222, 234, 246))
    canvas.ridge(HORIZON - 0.05, 0.05, 0.8, rng.uniform(0, 6.28), (226, 236, 246))
    for x in (rng.uniform(0.04, 0.2), rng.uniform(0.8, 0.96), rng.uniform(0.3, 0.7)):
        _fir(canvas, x, 0.7, rng.uniform(0.34, 0.5))
    canvas.ridge(HORIZON + 0.05, 0.025, 0.6, rng.uniform(0, 6.28), (250, 252, 255))
    for x, y in rng.uniform((0.0, 0.0), (1.0, 0.6), size=(10, 2)):
        canvas.disc(x, y, 0.013, (255, 255, 255))


def _fir(canvas: Canvas, x: float, foot: float, height: float) -> None:
    canvas.rectangle((x - 0.018, foot - 0.08, x + 0.018, foot), (96, 76, 70))
    for tier in range(3):
        top = foot - height + tier * 0.24 * height
        width = 0.06 + 0.03 * tier
        base = top + 0.44 * height
        canvas.polygon([(x, top), (x - width, base), (x + width, base)], (64, 116, 118))
        half, snow_line = 0.35 * width, top + 0.35 * (base - top)
        canvas.polygon([(x, top), (x - half, snow_line), (x + half, snow_line)], (238, 246, 252))


def night_city(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.gradient((12, 14, 46), (62, 48, 104))
    canvas.disc(rng.uniform(0.12, 0.88), 0.13, 0.07, (250, 240, 200))
    edge = rng.uniform(-0.1, 0.0)
    while edge < 1.0:
        width = rng.uniform(0.2, 0.27)
        _tower(canvas, rng, edge, edge + width - 0.02, rng.uniform(0.24, 0.46))
        edge += width
    canvas.rectangle((0, HORIZON + 0.04, 1, 1), (44, 44, 60))
    canvas.rectangle((0, HORIZON + 0.04, 1, HORIZON + 0.075), (92, 90, 112))


def _tower(canvas: Canvas, rng: np.random.Generator, left: float, right: float, top: float) -> None:
    canvas.rectangle((left, top, right, HORIZON + 0.05), (28, 28, 62))
    for x in np.arange(left + 0.035, right - 0.05, 0.08):
        for y in np.arange(top + 0.05, HORIZON - 0.04, 0.1):
            if rng.random() < 0.7:
                canvas.rectangle((x, y, x + 0.045, y + 0.055), (255, 216, 110))


def meadow(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.gradient((92, 174, 246), (206, 234, 255))
    for x, y in ((rng.uniform(0.05, 0.4), rng.uniform(0.1, 0.2)), (rng.uniform(0.6, 0.95), rng.uniform(0.12, 0.28))):
        for shift, lift, radius in ((-0.08, 0.02, 0.05), (0.0, 0.0, 0.07), (0.08, 0.02, 0.055)):
            canvas.disc(x + shift, y + lift, radius, (255, 255, 255))
    canvas.ridge(HORIZON - 0.07, 0.06, 0.8, rng.uniform(0, 6.28), (134, 202, 98))
    canvas.ridge(HORIZON + 0.05, 0.03, 0.7, rng.uniform(0, 6.28), (88, 170, 72))
    for x, y in rng.uniform((0.03, 0.78), (0.97, 0.97), size=(7, 2)):
        canvas.disc(x, y, 0.024, (255, 250, 240))
        canvas.disc(x, y, 0.011, (255, 200, 40))


def under_the_sea(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.gradient((58, 172, 214), (8, 52, 124))
    shift = rng.uniform(-0.15, 0.15)
    for x in (0.2 + shift, 0.62 + shift):
        canvas.polygon([(x, 0), (x + 0.13, 0), (x + 0.02, 0.8), (x - 0.24, 0.8)], (50, 150, 200))
    canvas.ridge(HORIZON + 0.13, 0.03, 0.9, rng.uniform(0, 6.28), (206, 190, 140))
    for x in (rng.uniform(0.04, 0.14), rng.uniform(0.86, 0.96)):
        _weed(canvas, x, rng.uniform(0.28, 0.42), rng.uniform(0, 6.28))
    for x, y in rng.uniform((0.05, 0.05), (0.95, 0.5), size=(5, 2)):
        canvas.ring(x, y, rng.uniform(0.022, 0.034), (198, 236, 250))


def _weed(canvas: Canvas, x: float, height: float, phase: float) -> None:
    rise = np.linspace(0.0, 1.0, 12)
    sway = x + 0.025 * np.sin(7.0 * rise + phase)
    width = 0.034 * (1.0 - 0.7 * rise)
    ys = 0.86 - height * rise
    left = list(zip((sway - width).tolist(), ys.tolist()))
    right = list(zip((sway + width).tolist(), ys.tolist()))
    canvas.polygon(left + right[::-1], (30, 142, 104))


def living_room(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.gradient((246, 222, 204), (240, 210, 190))
    x, y = rng.uniform(0.04, 0.6), rng.uniform(0.06, 0.14)
    canvas.rectangle((x, y, x + 0.36, y + 0.36), (255, 255, 255))
    canvas.rectangle((x + 0.035, y + 0.035, x + 0.325, y + 0.325), (158, 208, 244))
    canvas.rectangle((x + 0.165, y, x + 0.195, y + 0.36), (255, 255, 255))
    canvas.rectangle((x, y + 0.165, x + 0.36, y + 0.195), (255, 255, 255))
    canvas.rectangle((0, HORIZON, 1, 1), (168, 108, 68))
    for row in (0.78, 0.89):
        canvas.rectangle((0, row, 1, row + 0.012), (136, 84, 52))
    canvas.rectangle((0, HORIZON - 0.035, 1, HORIZON + 0.005), (255, 250, 244))
    rug = rng.uniform(0.35, 0.65)
    canvas.ellipse((rug - 0.42, 0.79, rug + 0.42, 0.97), (226, 200, 168))


# Scene -> what fills it, in the order of the judges' classes; and the words of its captions.
SCENES: dict[str, Callable[[Canvas, np.random.Generator], None]] = {
    "desert": desert,
    "snow": snow,
    "night city": night_city,
    "meadow": meadow,
    "sea": under_the_sea,
    "living room": living_room,
}
SETTINGS = {
    "desert": "in the desert",
    "snow": "in the snow",
    "night city": "in the city at night",
    "meadow": "in a meadow",
    "sea": "under the sea",
    "living room": "in a living room",
}
