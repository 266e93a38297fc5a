"""Subjects that the miniature never saw, as a user's photos: one of each kind, rendered in two scenes, and a prompt set
for each that asks for it in the other four.

    python -m svdstory.pipeline.miniature.strangers prompts/references
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from svdstory.pipeline.miniature.world import KINDS, SCENE_NAMES, SETTINGS, Identity, draw_identity, draw_view, render

SEED = 1119  # of the identities; the shape is drawn from a continuum, so none of them was trained on
SHOWN = 2  # scenes that a subject's pictures show
STYLE = "A photo of"


def stranger(kind: str) -> tuple[Identity, list[str], list[np.ndarray]]:
    """Who it is, its scenes, and a picture (64, 64, 3) of it in each."""
    number = KINDS.index(kind)
    rng = np.random.default_rng((SEED, number))
    identity = draw_identity(rng)
    scenes = [SCENE_NAMES[(SHOWN * number + i) % len(SCENE_NAMES)] for i in range(SHOWN)]
    told = dict(kind=kind, identity=identity, style=STYLE, accessory="")
    return identity, scenes, [render(draw_view(rng, scene=scene, **told)).image for scene in scenes]


def write(folder: Path) -> None:
    """The pictures and their sets. The same bytes on any machine with this Pillow."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        name, (_, scenes, pictures) = f"shown-{kind.replace(' ', '-')}", stranger(kind)
        for i, picture in enumerate(pictures):
            Image.fromarray(picture).save(folder / f"{name}-{i}.png")
        others = [f"  - {words}\n" for scene, words in SETTINGS.items() if scene not in scenes]
        (folder / f"{name}.yaml").write_text(
            f"style: {STYLE}\nsubject: a {kind}\nconcept: {kind.split()[-1]}\n"
            f"references: [{', '.join(f'{name}-{i}.png' for i in range(SHOWN))}]\n"
            f"settings:\n{''.join(others)}seeds: [0]\ngroup: shown\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
