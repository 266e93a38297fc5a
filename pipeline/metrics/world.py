"""Ground truth for the miniature: what its judge reads from each picture, in the world's own units.

Only for prompt sets in the world's words (prompts/world): the subject names one of its kinds, each setting is one of
its scenes. B pictures of 64 × 64 pixels.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from svdstory.pipeline.world import KINDS, SETTINGS
from svdstory.pipeline.world import truth

from ..strict import InputError
from .scorer import UnitImages, Values, rounded

SIDE = 64


class World:
    """Identity, kind, scene, leakage and layout by the judge of pipeline/miniature."""

    def __init__(self, name: str, weights: Path, sha256: str, device: str = "cpu"):
        self.name, self.weights, self.device = name, weights, device
        self.protocol = {
            "scorer": name,
            "formula": "pipeline/world/truth.py, over a set's pictures",
            "embedder": "the miniature's judge",
            "library": "svdstory",
            "weights": sha256,
            "preprocessing": f"{SIDE} × {SIDE} pixels as they are",
            "background": "the judge's own subject mask",
        }

    @cached_property
    def judge(self):
        from svdstory.pipeline.miniature.judges import load_judge

        return load_judge(self.weights.parent, self.device)

    def score_many(self, units: Sequence[UnitImages]) -> list[Values]:
        """Set by set the numbers of METRICS["world"]; those of pairs are absent for a single picture.

        Raises InputError for a set that is not in the world's words, or pictures of another size.
        """
        from svdstory.pipeline.miniature.judges import read_pictures

        asked = [(kind_of(unit), scenes_of(unit)) for unit in units]
        pictures = [_pixels(unit) for unit in units]  # per unit: (B, 64, 64, 3)
        readings = read_pictures(self.judge, np.concatenate(pictures))
        ends = np.cumsum([len(p) for p in pictures])
        return [_values(readings[end - len(p):end], p, kind, scenes)
                for p, end, (kind, scenes) in zip(pictures, ends, asked)]

    def score(self, unit: UnitImages) -> Values:
        return self.score_many([unit])[0]


def kind_of(unit: UnitImages) -> str:
    """The world's kind that the subject names. Raises InputError."""
    found = [kind for kind in KINDS if unit.subject.endswith(kind)]
    if not found:
        raise InputError(f"scorer world: the subject {unit.subject!r} is none of the miniature's: {', '.join(KINDS)}.")
    return found[0]


def scenes_of(unit: UnitImages) -> list[str]:
    """The world's scene that each prompt's setting is. Raises InputError."""
    by_words = {words: scene for scene, words in SETTINGS.items()}
    scenes = [next((scene for words, scene in by_words.items() if prompt.endswith(words)), None)
              for prompt in unit.prompts]
    if None in scenes:
        prompt = unit.prompts[scenes.index(None)]
        raise InputError(f"scorer world: the prompt {prompt!r} ends in none of the miniature's settings: "
                         f"{', '.join(by_words)}.")
    return scenes


def _pixels(unit: UnitImages) -> np.ndarray:
    """(B, 64, 64, 3) uint8."""
    wrong = [image.size for image in unit.images if image.size != (SIDE, SIDE)]
    if wrong:
        raise InputError(f"scorer world: got a picture of {wrong[0][0]}×{wrong[0][1]} pixels; the judge knows the "
                         f"miniature's {SIDE}×{SIDE} only.")
    return np.stack([np.asarray(image.convert("RGB")) for image in unit.images])


def _values(readings: list, pictures: np.ndarray, kind: str, scenes: list[str]) -> Values:
    values = {"kind_accuracy": truth.kind_accuracy(readings, kind),
              "scene_accuracy": truth.scene_accuracy(readings, scenes)}
    if len(readings) > 1:
        values |= {
            "identity_distance": truth.identity_distance(readings),
            "body_hue_distance": truth.body_hue_distance(readings),
            "scene_leakage": truth.background_leakage(readings, scenes),
            "world_background": truth.background_similarity(pictures, readings),
            "world_layout": truth.layout_variety(readings),
            "world_pose": truth.pose_variety(readings),
        }
    return {name: rounded(value) for name, value in values.items()}
