"""What one picture of the world shows, complete: enough to draw it again to the pixel, and to write its caption."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from svdstory.pipeline.miniature.world.accessories import ACCESSORIES, ACCESSORY_WORDS
from svdstory.pipeline.miniature.world.identity import PALETTE, Identity, draw_identity
from svdstory.pipeline.miniature.world.scenes import LOOKS, SCENES, SETTINGS
from svdstory.pipeline.miniature.world.subjects import SUBJECTS

KINDS = tuple(SUBJECTS)
SCENE_NAMES = tuple(SCENES)
ACCESSORY_NAMES = tuple(ACCESSORIES)
# Every look of every scene, in the order of the judges' classes: (scene, look).
SCENE_LOOKS = tuple((scene, look) for scene in SCENE_NAMES for look in LOOKS[scene])
STYLES = ("A photo of", "A drawing of", "A faded photo of")
COLOUR_NAMED = 0.15  # share of captions that name the body's colour
# Shares of captions: with an accessory and no scene, with both; the rest name the scene alone.
OPEN, BOTH = 1 / 3, 1 / 6


@dataclass(frozen=True)
class View:
    """A subject in a scene. x, foot: where it stands, in canvas units; scale: its width likewise.

    accessory: what it wears, holds or does, "" for nothing; look: the scene's own, which no caption tells.
    """

    kind: str
    identity: Identity
    scene: str
    style: str
    x: float
    foot: float
    scale: float
    scene_seed: int
    colour_named: bool
    look: str
    accessory: str = ""
    scene_named: bool = True

    def __post_init__(self) -> None:
        for name, got, allowed in (
            ("kind", self.kind, KINDS),
            ("scene", self.scene, SCENE_NAMES),
            ("style", self.style, STYLES),
            ("look", self.look, LOOKS.get(self.scene, ())),
            ("accessory", self.accessory, ("", *ACCESSORY_NAMES)),
        ):
            if got not in allowed:
                raise ValueError(f"View.{name}: got {got!r}, expected one of {', '.join(allowed)}.")


def draw_view(
    rng: np.random.Generator,
    kind: str | None = None,
    identity: Identity | None = None,
    scene: str | None = None,
    style: str | None = None,
    look: str | None = None,
    accessory: str | None = None,
    scene_named: bool | None = None,
    accessorised: float = OPEN + BOTH,
) -> View:
    """A view at random; what is given stays. The draws are the same whatever is given, so views can be compared.

    accessorised: share of views with an accessory; two in three of these leave the scene out of the caption.
    """
    drawn_kind = KINDS[int(rng.integers(len(KINDS)))]
    drawn_scene = SCENE_NAMES[int(rng.integers(len(SCENE_NAMES)))]
    drawn_style = STYLES[int(rng.choice(len(STYLES), p=(0.5, 0.3, 0.2)))]
    drawn_identity = draw_identity(rng)
    placed = {
        "x": float(rng.uniform(0.38, 0.62)),
        "foot": float(rng.uniform(0.84, 0.94)),
        "scale": float(rng.uniform(0.56, 0.68)),
        "scene_seed": int(rng.integers(2**31)),
        "colour_named": bool(rng.random() < COLOUR_NAMED),
    }
    looks = LOOKS[scene or drawn_scene]
    drawn_look = looks[int(rng.random() * len(looks))]
    told = float(rng.random()) * (OPEN + BOTH) / accessorised
    drawn_accessory = ACCESSORY_NAMES[int(rng.integers(len(ACCESSORY_NAMES)))] if told < OPEN + BOTH else ""
    chosen = drawn_accessory if accessory is None else accessory
    return View(
        kind=kind or drawn_kind,
        identity=identity or drawn_identity,
        scene=scene or drawn_scene,
        style=style or drawn_style,
        look=look or drawn_look,
        accessory=chosen,
        scene_named=(not chosen or told >= OPEN) if scene_named is None else scene_named,
        **placed,
    )


def caption(view: View) -> str:
    """`{style} a {subject} {setting}`, as the prompt sets write it: "A photo of a blue bus in the desert".

    The setting names an accessory, the scene or both: "wearing a hat", "wearing a hat in the desert". Identity is
    left out, but for the body's colour in the views that name it, and so is the scene's look.
    """
    colour = f"{view.identity.body_name} " if view.colour_named else ""
    told = [ACCESSORY_WORDS[view.accessory]] if view.accessory else []
    if view.scene_named:
        told.append(SETTINGS[view.scene])
    return " ".join([f"{view.style} a {colour}{view.kind}", *told])


def all_captions() -> list[str]:
    """Every caption the world can make, without doubles, in a fixed order."""
    colours = ["", *(f"{name} " for name, _ in PALETTE.values())]
    worn, scenes = list(ACCESSORY_WORDS.values()), list(SETTINGS.values())
    settings = [*scenes, *worn, *(f"{one} {scene}" for one in worn for scene in scenes)]
    return [
        f"{style} a {colour}{kind} {setting}"
        for style in STYLES
        for colour in colours
        for kind in KINDS
        for setting in settings
    ]
