"""Ground truth for the miniature: what its judge reads from each picture, in the world's own units.

Only for prompt sets in the world's words (prompts/world): the subject names one of its kinds, each setting one of its
accessories, scenes or both. B pictures of 64 × 64 pixels.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np

from svdstory.pipeline.metrics.scorer import UnitImages, Values, rounded
from svdstory.pipeline.miniature.world import ACCESSORY_WORDS, KINDS, SETTINGS, leakage, truth

SIDE = 64


class World:
    """Identity, kind, scene, accessory, leakage and layout by the judge of pipeline/miniature."""

    def __init__(self, name: str, weights: Path, sha256: str, device: str = "cpu"):
        self.name, self.weights, self.device = name, weights, device
        self.protocol = {
            "scorer": name,
            "formula": "pipeline/miniature/world/truth.py and leakage.py, over a set's pictures",
            "embedder": "the miniature's judge",
            "library": "svdstory",
            "weights": sha256,
            "preprocessing": f"{SIDE} × {SIDE} pixels as they are",
            "background": "outside of the judge's own masks of subject and accessory",
        }

    @cached_property
    def judge(self):
        from svdstory.pipeline.miniature.judges import load_judge

        return load_judge(self.weights.parent, self.device)

    def score_many(self, units: Sequence[UnitImages]) -> list[Values]:
        """Set by set the numbers of METRICS["world"]; those of pairs are absent for a single picture, those of scenes
        for a set that leaves one open, `accessory_accuracy` for one that names none. `background_looks`: (B, looks).

        A set that is not in the world's words, or whose pictures have another size, gets none.
        """
        from svdstory.pipeline.miniature.judges import read_pictures

        results: list[Values] = [{} for _ in units]
        within = [i for i, unit in enumerate(units) if knows(unit)]
        pictures = {i: np.stack([np.asarray(image.convert("RGB")) for image in units[i].images]) for i in within}
        shown = {i: np.stack([np.asarray(image) for image in of.images]) for i in within if (of := units[i].references)}
        everything = [*pictures.values(), *shown.values()]  # each (B or R, 64, 64, 3)
        readings = iter(read_pictures(self.judge, np.concatenate(everything)) if within else [])
        own, references = ({i: list(islice(readings, len(of))) for i, of in some.items()} for some in (pictures, shown))
        for i, read in own.items():
            results[i] = _values(read, pictures[i], units[i])
        for i, read in references.items():
            results[i] |= _beside_references(own[i], read, scenes_of(units[i]))
        return results

    def score(self, unit: UnitImages) -> Values:
        return self.score_many([unit])[0]


def knows(unit: UnitImages) -> bool:
    """Whether the judge can say anything of these pictures."""
    settings = zip(scenes_of(unit), accessories_of(unit))
    return (
        kind_of(unit) is not None
        and all(scene or worn for scene, worn in settings)
        and all(image.size == (SIDE, SIDE) for image in unit.images)
    )


def kind_of(unit: UnitImages) -> str | None:
    """The world's kind that the subject names."""
    return next((kind for kind in KINDS if unit.subject.endswith(kind)), None)


def scenes_of(unit: UnitImages) -> list[str | None]:
    """The world's scene that each prompt names at its end, None where it leaves the scene open."""
    return [
        next((scene for scene, words in SETTINGS.items() if prompt.endswith(f" {words}")), None)
        for prompt in unit.prompts
    ]


def accessories_of(unit: UnitImages) -> list[str]:
    """The accessory that each prompt names, at its end or before the scene; "" for none."""
    found = []
    for prompt, scene in zip(unit.prompts, scenes_of(unit)):
        rest = prompt.removesuffix(f" {SETTINGS[scene]}") if scene else prompt
        found.append(next((worn for worn, words in ACCESSORY_WORDS.items() if rest.endswith(f" {words}")), ""))
    return found


def _beside_references(readings: list, references: list, scenes: list[str | None]) -> Values:
    values = {
        "reference_distance": np.mean([[truth.distance(one, other) for other in references] for one in readings]),
        "reference_leakage": leakage.of_references(readings, references, scenes),
    }
    return {name: rounded(value) for name, value in values.items()}


def _values(readings: list, pictures: np.ndarray, unit: UnitImages) -> Values:
    scenes, worn = scenes_of(unit), accessories_of(unit)
    named = None not in scenes
    values = {"kind_accuracy": truth.kind_accuracy(readings, kind_of(unit))}
    if named:
        values["scene_accuracy"] = truth.scene_accuracy(readings, scenes)
    if any(worn):
        values["accessory_accuracy"] = truth.accessory_accuracy(readings, worn)
    if len(readings) > 1:
        if named:
            values["scene_leakage"] = leakage.background_leakage(readings, scenes)
        values |= {
            "identity_distance": truth.identity_distance(readings),
            "body_hue_distance": truth.body_hue_distance(readings),
            "background_looks": np.array([leakage.background_looks(reading) for reading in readings]),
            "world_background": truth.background_similarity(pictures, readings),
            "world_layout": truth.layout_variety(readings),
            "world_pose": truth.pose_variety(readings),
        }
    return {name: rounded(value) for name, value in values.items()}
