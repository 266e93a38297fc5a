"""Draws a view: the scene, a shadow, the subject's sprite, its accessory; with the truth about every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image, ImageDraw

from svdstory.pipeline.miniature.world.accessories import ACCESSORIES, JUMP, top_of
from svdstory.pipeline.miniature.world.canvas import SUPERSAMPLE, Canvas, Colour
from svdstory.pipeline.miniature.world.identity import Identity
from svdstory.pipeline.miniature.world.scenes import SCENES
from svdstory.pipeline.miniature.world.subjects import OWN_COLOURS, SUBJECTS, Part
from svdstory.pipeline.miniature.world.views import View

SIZE = 64
STRIPE = (255, 250, 240)
STRIPE_PERIOD, STRIPE_WIDTH = 0.24, 0.11  # sprite units
MASK_LEVEL = 0.5
# Style -> line width in canvas units; its colour (None: the fill, darkened); how much the picture fades to FADE.
LINES: dict[str, tuple[float, Colour | None, float]] = {
    "A photo of": (0.010, None, 0.0),
    "A drawing of": (0.024, (24, 20, 30), 0.0),
    "A faded photo of": (0.010, None, 0.38),
}
FADE = (240, 226, 206)


@dataclass(frozen=True)
class Picture:
    """image: uint8 (SIZE, SIZE, 3); mask: bool (SIZE, SIZE), where the subject is seen; view: what was drawn.

    accessory_mask: bool (SIZE, SIZE), where its accessory is; `mask` leaves that out.
    """

    image: np.ndarray
    mask: np.ndarray
    view: View
    accessory_mask: np.ndarray = field(default_factory=lambda: np.zeros((SIZE, SIZE), bool))


class _Sprite:
    """Draws the parts of one subject onto an RGBA layer of the canvas' pixels."""

    def __init__(self, view: View, pixels: int):
        self.view, self.pixels = view, pixels
        self.layer = Image.new("RGBA", (pixels, pixels))
        self.draw = ImageDraw.Draw(self.layer)
        width, line, _ = LINES[view.style]
        self.width, self.line = max(1, round(width * pixels)), line
        self.body = _body_fill(view, pixels)

    def place(self, point: tuple[float, float]) -> tuple[float, float]:
        """Sprite coordinates -> pixels."""
        x, y = point
        return (
            (self.view.x + x * self.view.scale) * self.pixels,
            (self.view.foot - y * self.view.scale) * self.pixels,
        )

    def colour(self, role: str, identity: Identity) -> Colour:
        if role == "body":
            return identity.body_colour
        return identity.accent_colour if role == "accent" else OWN_COLOURS[role]

    def add(self, part: Part) -> None:
        fill = self.colour(part.role, self.view.identity)
        if part.role == "body" and self.body is not None:
            stencil = Image.new("L", (self.pixels, self.pixels))
            self._form(ImageDraw.Draw(stencil), part, fill=255)
            self.layer.paste(self.body, (0, 0), stencil)
        else:
            self._form(self.draw, part, fill=fill)
        if part.outlined:
            line = self.line or tuple(int(0.55 * channel) for channel in fill)
            self._form(self.draw, part, outline=line, width=self.width)

    def _form(self, draw: ImageDraw.ImageDraw, part: Part, **paint) -> None:
        points = [self.place(point) for point in part.points]
        if part.form == "polygon":
            draw.polygon(points, **paint)
            return
        (left, bottom), (right, top) = points
        box = [left, top, right, bottom]
        if part.form == "box":
            draw.rectangle(box, **paint)
        elif part.form == "rounded":
            draw.rounded_rectangle(box, radius=0.09 * self.view.scale * self.pixels, **paint)
        elif part.form == "ellipse":
            draw.ellipse(box, **paint)
        else:
            draw.chord(box, 180, 360, **paint)


def _body_fill(view: View, pixels: int) -> Image.Image | None:
    """Broad slanted stripes fixed to the sprite, or None for a plain body."""
    if view.identity.pattern == "plain":
        return None
    rows, columns = np.mgrid[0:pixels, 0:pixels] / pixels
    across = ((columns - view.x) + 0.45 * (rows - view.foot)) / view.scale
    striped = ((across + 0.5 * STRIPE_WIDTH) % STRIPE_PERIOD < STRIPE_WIDTH)[..., None]
    return Image.fromarray(np.where(striped, STRIPE, view.identity.body_colour).astype(np.uint8))


def render(view: View, size: int = SIZE, subject: bool = True) -> Picture:
    """Draw `view` at `size` × `size` pixels. The same view gives the same bytes, on any machine with this Pillow.

    Without `subject` its scene alone, with an empty mask.
    """
    canvas, nowhere = Canvas(size), np.zeros((size, size), bool)
    SCENES[view.scene](canvas, np.random.default_rng(view.scene_seed), view.look)
    if not subject:
        return Picture(_styled(np.asarray(canvas.reduced()), view.style), nowhere, view, nowhere)
    if view.kind != "fish":
        _shadow(canvas, view)
    worn = ACCESSORIES[view.accessory](top_of(view.kind, view.identity.shape)) if view.accessory else []
    lifted = replace(view, foot=view.foot - JUMP * view.scale) if view.accessory == "jumping" else view
    body, sign = SUBJECTS[view.kind](view.identity.shape), nowhere
    cover = _pasted(canvas, lifted, body)
    if worn:
        sign = _pasted(canvas, view, worn)
    return Picture(_styled(np.asarray(canvas.reduced()), view.style), cover & ~sign, view, sign)


def _pasted(canvas: Canvas, view: View, parts: Sequence[Part]) -> np.ndarray:
    """Draw `parts` over the canvas; returns where they are, bool (size, size)."""
    sprite = _Sprite(view, canvas.pixels)
    for part in parts:
        sprite.add(part)
    canvas.image.paste(sprite.layer, (0, 0), sprite.layer)
    return np.asarray(sprite.layer.getchannel("A").reduce(SUPERSAMPLE)) / 255.0 > MASK_LEVEL


def _shadow(canvas: Canvas, view: View) -> None:
    """Darkens the ground under the subject."""
    reach, flat = 0.5 * view.scale, 0.035
    box = [
        (view.x - reach) * canvas.pixels,
        (view.foot - flat) * canvas.pixels,
        (view.x + reach) * canvas.pixels,
        (view.foot + flat) * canvas.pixels,
    ]
    stencil = Image.new("L", canvas.image.size)
    ImageDraw.Draw(stencil).ellipse(box, fill=90)
    canvas.image.paste((20, 20, 40), (0, 0), stencil)


def _styled(image: np.ndarray, style: str) -> np.ndarray:
    fade = LINES[style][2]
    if fade == 0.0:
        return image
    return (image * (1 - fade) + np.asarray(FADE) * fade).astype(np.uint8)
