"""The other scenes: the city at night, the bottom of the sea and a living room, each in three untold looks."""

from __future__ import annotations

import numpy as np

from svdstory.pipeline.miniature.world.canvas import Canvas, Colour
from svdstory.pipeline.miniature.world.outdoors import HORIZON


def night_city(canvas: Canvas, rng: np.random.Generator, look: str) -> None:
    top, bottom, tower, lights = {
        "moonlit": ((12, 14, 46), (62, 48, 104), (28, 28, 62), ((255, 216, 110),)),
        "neon": ((40, 6, 60), (150, 20, 120), (34, 14, 54), ((60, 240, 250), (255, 70, 190))),
        "fireworks": ((2, 12, 40), (10, 54, 96), (8, 22, 46), ((255, 255, 236),)),
    }[look]
    canvas.gradient(top, bottom)
    moon = rng.uniform(0.12, 0.88)
    if look != "fireworks":
        canvas.disc(moon, 0.13, 0.07, (250, 240, 200))
    edge = rng.uniform(-0.1, 0.0)
    while edge < 1.0:
        width = rng.uniform(0.2, 0.27)
        _tower(canvas, rng, (edge, edge + width - 0.02, rng.uniform(0.24, 0.46)), tower, lights)
        edge += width
    if look == "fireworks":
        _firework(canvas, moon, 0.15, (255, 90, 60))
        _firework(canvas, (moon + 0.45) % 1.0, 0.2, (120, 255, 120))
    canvas.rectangle((0, HORIZON + 0.04, 1, 1), (44, 44, 60))
    canvas.rectangle((0, HORIZON + 0.04, 1, HORIZON + 0.075), (92, 90, 112))


def _tower(
    canvas: Canvas,
    rng: np.random.Generator,
    outline: tuple[float, float, float],
    wall: Colour,
    lights: tuple[Colour, ...],
) -> None:
    left, right, top = outline
    canvas.rectangle((left, top, right, HORIZON + 0.05), wall)
    for column, x in enumerate(np.arange(left + 0.035, right - 0.05, 0.08)):
        for row, y in enumerate(np.arange(top + 0.05, HORIZON - 0.04, 0.1)):
            if rng.random() < 0.7:
                canvas.rectangle((x, y, x + 0.045, y + 0.055), lights[(column + row) % len(lights)])


def _firework(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    for ray in range(8):
        turn = 2 * np.pi * ray / 8
        tip = (x + 0.12 * np.cos(turn), y + 0.12 * np.sin(turn))
        across = (0.016 * np.sin(turn), -0.016 * np.cos(turn))
        canvas.polygon(
            [(x, y), (tip[0] + across[0], tip[1] + across[1]), (tip[0] - across[0], tip[1] - across[1])], colour
        )
    canvas.disc(x, y, 0.03, (255, 255, 255))


def under_the_sea(canvas: Canvas, rng: np.random.Generator, look: str) -> None:
    top, bottom, ray, sand, weed = {
        "blue": ((58, 172, 214), (8, 52, 124), (50, 150, 200), (206, 190, 140), (30, 142, 104)),
        "reef": ((70, 226, 226), (6, 116, 170), (110, 232, 232), (240, 206, 160), (250, 84, 110)),
        "kelp": ((40, 176, 130), (2, 62, 74), (60, 160, 120), (150, 130, 70), (150, 176, 20)),
    }[look]
    canvas.gradient(top, bottom)
    shift = rng.uniform(-0.15, 0.15)
    for x in (0.2 + shift, 0.62 + shift):
        canvas.polygon([(x, 0), (x + 0.13, 0), (x + 0.02, 0.8), (x - 0.24, 0.8)], ray)
    canvas.ridge(HORIZON + 0.13, 0.03, 0.9, rng.uniform(0, 6.28), sand)
    for x in (rng.uniform(0.04, 0.14), rng.uniform(0.86, 0.96)):
        height, phase = rng.uniform(0.28, 0.42), rng.uniform(0, 6.28)
        if look == "reef":
            _coral(canvas, x, height, weed)
        else:
            _weed(canvas, x, height if look == "blue" else 1.6 * height, phase, weed)
    for x, y in rng.uniform((0.05, 0.05), (0.95, 0.5), size=(5, 2)):
        canvas.ring(x, y, rng.uniform(0.022, 0.034), (198, 236, 250))


def _weed(canvas: Canvas, x: float, height: float, phase: float, green: Colour) -> None:
    rise = np.linspace(0.0, 1.0, 12)
    sway = x + 0.025 * np.sin(7.0 * rise + phase)
    width = 0.034 * (1.0 - 0.7 * rise)
    ys = 0.86 - height * rise
    left = list(zip((sway - width).tolist(), ys.tolist()))
    right = list(zip((sway + width).tolist(), ys.tolist()))
    canvas.polygon(left + right[::-1], green)


def _coral(canvas: Canvas, x: float, height: float, colour: Colour) -> None:
    for shift, part in ((-0.075, 0.6), (0.0, 0.85), (0.075, 0.7)):
        top = 0.86 - part * height
        canvas.rounded((x + shift - 0.024, top, x + shift + 0.024, 0.88), 0.024, colour)
        canvas.disc(x + shift, top, 0.036, colour)


def living_room(canvas: Canvas, rng: np.random.Generator, look: str) -> None:
    top, bottom, view, floor, board, rug_colour = {
        "peach": ((246, 222, 204), (240, 210, 190), (158, 208, 244), (168, 108, 68), (136, 84, 52), (226, 200, 168)),
        "olive": ((190, 200, 120), (172, 184, 100), (255, 214, 140), (110, 66, 48), (82, 48, 36), (214, 90, 60)),
        "rose": ((226, 128, 140), (212, 110, 124), (30, 40, 90), (206, 160, 110), (170, 124, 80), (250, 236, 220)),
    }[look]
    canvas.gradient(top, bottom)
    if look == "rose":
        for x in np.arange(0.03, 1.0, 0.125):
            canvas.rectangle((x, 0, x + 0.05, HORIZON), (242, 166, 172))
    x, y = rng.uniform(0.04, 0.6), rng.uniform(0.06, 0.14)
    canvas.rectangle((x, y, x + 0.36, y + 0.36), (255, 255, 255))
    canvas.rectangle((x + 0.035, y + 0.035, x + 0.325, y + 0.325), view)
    canvas.rectangle((x + 0.165, y, x + 0.195, y + 0.36), (255, 255, 255))
    canvas.rectangle((x, y + 0.165, x + 0.36, y + 0.195), (255, 255, 255))
    canvas.rectangle((0, HORIZON, 1, 1), floor)
    for row in (0.78, 0.89):
        canvas.rectangle((0, row, 1, row + 0.012), board)
    canvas.rectangle((0, HORIZON - 0.035, 1, HORIZON + 0.005), (255, 250, 244))
    rug = rng.uniform(0.35, 0.65)
    canvas.ellipse((rug - 0.42, 0.79, rug + 0.42, 0.97), rug_colour)
    if look == "olive":
        _lamp(canvas, 0.9 if x < 0.3 else 0.1)


def _lamp(canvas: Canvas, x: float) -> None:
    canvas.rectangle((x - 0.014, 0.36, x + 0.014, 0.8), (60, 40, 40))
    canvas.rectangle((x - 0.06, 0.79, x + 0.06, 0.815), (60, 40, 40))
    canvas.polygon([(x - 0.05, 0.2), (x + 0.05, 0.2), (x + 0.1, 0.38), (x - 0.1, 0.38)], (255, 240, 150))
