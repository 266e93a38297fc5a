"""What one picture of the world shows, complete: enough to draw it again to the pixel, and to write its caption."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from svdstory.pipeline.miniature.world.identity import Identity, draw_identity
from svdstory.pipeline.miniature.world.scenes import SCENES, SETTINGS
from svdstory.pipeline.miniature.world.subjects import SUBJECTS

KINDS = tuple(SUBJECTS)
SCENE_NAMES = tuple(SCENES)
STYLES = ("A photo of", "A drawing of", "A faded photo of")
COLOUR_NAMED = 0.15  # share of captions that name the body's colour


@dataclass(frozen=True)
class View:
    """A subject in a scene. x, foot: where it stands, in canvas units; scale: its width likewise."""

    kind: str
    identity: Identity
    scene: str
    style: str
    x: float
    foot: float
    scale: float
    scene_seed: int
    colour_named: bool

    def __post_init__(self) -> None:
        for name, got, allowed in (
            ("kind", self.kind, KINDS),
            ("scene", self.scene, SCENE_NAMES),
            ("style", self.style, STYLES),
        ):
            if got not in allowed:
                raise ValueError(f"View.{name}: got {got!r}, expected one of {', '.join(allowed)}.")


def draw_view(
    rng: np.random.Generator,
    kind: str | None = None,
    identity: Identity | None = None,
    scene: str | None = None,
    style: str | None = None,
) -> View:
    """A view at random; what is given stays. The draws are the same whatever is given, so views can be compared."""
    drawn_kind = KINDS[int(rng.integers(len(KINDS)))]
    drawn_scene = SCENE_NAMES[int(rng.integers(len(SCENE_NAMES)))]
    drawn_style = STYLES[int(rng.choice(len(STYLES), p=(0.5, 0.3, 0.2)))]
    drawn_identity = draw_identity(rng)
    return View(
        kind=kind or drawn_kind,
        identity=identity or drawn_identity,
        scene=scene or drawn_scene,
        style=style or drawn_style,
        x=float(rng.uniform(0.38, 0.62)),
        foot=float(rng.uniform(0.84, 0.94)),
        scale=float(rng.uniform(0.56, 0.68)),
        scene_seed=int(rng.integers(2**31)),
        colour_named=bool(rng.random() < COLOUR_NAMED),
    )


def caption(view: View) -> str:
    """`{style} a {subject} {setting}`, as the prompt sets write it: "A photo of a blue bus in the desert".

    Identity is left out, but for the body's colour in the views that name it.
    """
    colour = f"{view.identity.body_name} " if view.colour_named else ""
    return f"{view.style} a {colour}{view.kind} {SETTINGS[view.scene]}"


def all_captions() -> list[str]:
    """Every caption the world can make, without doubles, in a fixed order."""
    from svdstory.pipeline.miniature.world.identity import PALETTE

    colours = ["", *(f"{name} " for name, _ in PALETTE.values())]
    return [
        f"{style} a {colour}{kind} {SETTINGS[scene]}"
        for style in STYLES
        for colour in colours
        for kind in KINDS
        for scene in SCENE_NAMES
    ]
