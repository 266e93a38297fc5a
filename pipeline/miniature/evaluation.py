"""How good a trained miniature is, by the judges: kinds, scenes, accessories and colours, and that identities differ.

svdstory miniature evaluate --out results/reference/world
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from diffusers import StableDiffusionXLPipeline

from svdstory.pipeline.miniature.clip import load_clip
from svdstory.pipeline.miniature.judges import load_judge, read_pictures
from svdstory.pipeline.miniature.sheets import grid, sample_pictures, save_png, world_sheet
from svdstory.pipeline.miniature.world import (
    ACCESSORY_NAMES,
    ACCESSORY_WORDS,
    KINDS,
    SCENE_NAMES,
    SETTINGS,
    STYLES,
    View,
    caption,
    draw_view,
)
from svdstory.pipeline.miniature.world.truth import WORN, Reading, hue_angle, identity_distance

SETS, SET_SIZE = 12, 4  # of the sets that identities are compared in


def evaluation_views(count: int) -> list[View]:
    """Views whose captions are sampled: kinds and scenes in turn, the rest at random."""
    return [
        draw_view(
            np.random.default_rng((21, number)),
            kind=KINDS[number % len(KINDS)],
            scene=SCENE_NAMES[number // len(KINDS) % len(SCENE_NAMES)],
        )
        for number in range(count)
    ]


def agreement(views: list[View], readings: list[Reading]) -> dict[str, float]:
    """Shares of pictures that show a subject at all, and whose kind (of a subject that is there), and scene, accessory
    and colour (within 30°) where the caption names them, are right. Then which scenes captions without one got."""
    pairs = list(zip(views, readings))
    kinds = [reading.shows_subject and KINDS[reading.kind.argmax()] == view.kind for view, reading in pairs]
    scenes = [SCENE_NAMES[reading.scene.argmax()] for reading in readings]
    worn = [WORN[reading.accessory.argmax()] == view.accessory for view, reading in pairs]
    named = [hue_angle(reading.body_hue, view.identity.body_hue) < 30 for view, reading in pairs if view.colour_named]
    result = {
        "subject": share([reading.shows_subject for reading in readings]),
        "kind": share(kinds),
        "scene": share([scene == view.scene for view, scene in zip(views, scenes) if view.scene_named]),
        "accessory": share([right for view, right in zip(views, worn) if view.accessory]),
        "no accessory": share([right for view, right in zip(views, worn) if not view.accessory]),
        "named colour": share(named),
    }
    for kind in KINDS:
        result[f"kind, {kind}"] = share([fits for view, fits in zip(views, kinds) if view.kind == kind])
    for name in ACCESSORY_NAMES:
        result[f"accessory, {name}"] = share([fits for view, fits in zip(views, worn) if view.accessory == name])
    for name in SCENE_NAMES:
        result[f"open captions, {name}"] = share([s == name for view, s in zip(views, scenes) if not view.scene_named])
    return result


def share(right: list[bool]) -> float:
    """How many are right; nan of none."""
    return float(np.mean(right)) if right else float("nan")


def set_prompts() -> list[str]:
    """SETS sets of SET_SIZE prompts, one kind and style a set: first sets of scenes, then of accessories without one."""
    scenes, worn = list(SETTINGS.values()), list(ACCESSORY_WORDS.values())
    return [
        f"{STYLES[0]} a {KINDS[number % len(KINDS)]} {words[(number + turn) % len(words)]}"
        for number in range(SETS)
        for words in [scenes if number < SETS // 2 else worn]
        for turn in range(SET_SIZE)
    ]


def evaluate(weights: Path, count: int, steps: int = 20, out: Path | None = None) -> dict[str, float]:
    """Sample `count` captions and the sets from `weights`, judge them, and write sheets and numbers to `out`.

    Returns shares in 0..1; `plain identity distance`: of plain sampling within sets, 1 for independent draws;
    `clip score`: mean cosine of picture and prompt; `seconds a picture`: at `steps` steps, guidance 4.
    """
    pipeline = StableDiffusionXLPipeline.from_pretrained(weights)
    judge, clip = load_judge(weights / "judges"), load_clip(weights / "judges")
    views, started = evaluation_views(count), time.monotonic()
    captions = [caption(view) for view in views]
    pictures = sample_pictures(pipeline, captions, first_seed=50_000, steps=steps)
    seconds = (time.monotonic() - started) / count
    sets = sample_pictures(pipeline, set_prompts(), first_seed=90_000, steps=steps)
    readings = read_pictures(judge, sets)
    result = {
        "pictures": count,
        **agreement(views, read_pictures(judge, pictures)),
        "plain identity distance": float(
            np.mean(
                [identity_distance(readings[start : start + SET_SIZE]) for start in range(0, len(readings), SET_SIZE)]
            )
        ),
        "clip score": float(clip.score(pictures, captions).mean()),
        "seconds a picture": seconds,
    }
    if out:
        save_png(world_sheet(), out / "world.png")
        save_png(grid(pictures[:72], columns=12, zoom=1), out / "samples.png")
        save_png(grid(sets, columns=2 * SET_SIZE, zoom=1), out / "plain-sets.png")
        (out / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result
