"""Background leakage: how much of a picture's background shows what belongs to other pictures of its set.

The judge says of every patch of background which look of which scene it shows. Their mean over the patches that are
background is the picture's mixture: a picture a quarter of whose background is another picture's has a quarter there
(calibration.py measures how truly). Symbols: N pictures of a set, P patches a side, L looks of all scenes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from svdstory.pipeline.miniature.world.truth import PATCHES, Reading, scenes_of_looks
from svdstory.pipeline.miniature.world.views import SCENE_LOOKS, SCENE_NAMES


def background_weight(reading: Reading, patches: int = PATCHES) -> np.ndarray:
    """The share of background in each patch (P, P); patches that touch subject or accessory count nothing.

    A patch at the subject's edge looks like no scene; only patches with at most a tenth of subject count.
    """
    taken = reading.mask | reading.accessory_mask
    size = taken.shape[0] // patches
    share = 1.0 - taken.reshape(patches, size, patches, size).mean(axis=(1, 3))
    return np.where(share >= 0.9, share, 0.0)


def background_looks(reading: Reading) -> np.ndarray:
    """The mixture of looks (L,) that a picture's background shows; it sums to 1. All zeros without background."""
    weight = background_weight(reading)
    if weight.sum() == 0:
        return np.zeros(reading.patch_look.shape[-1])
    return (reading.patch_look * weight[..., None]).sum(axis=(0, 1)) / weight.sum()


def leakage(mixtures: np.ndarray, own: Sequence[int]) -> float:
    """How much of a set's backgrounds shows what is other pictures' own: 0 none, 1 all; mean over the set.

    mixtures: (N, C), shares of classes in each background; own: the class that each picture's background is. What no
    picture of the set owns is no leakage, and pictures that own the same class can't leak into one another. Raises
    ValueError for another number of owners than pictures.
    """
    mixtures = np.asarray(mixtures, dtype=float)
    if len(mixtures) != len(own):
        raise ValueError(f"leakage: got {len(mixtures)} backgrounds and {len(own)} owners, expected as many.")
    return float(np.mean([row[sorted(set(own) - {mine})].sum() for row, mine in zip(mixtures, own)]))


def background_leakage(readings: Sequence[Reading], scenes: Sequence[str]) -> float:
    """Leakage of a set whose captions name its scenes (N names): a picture's own scene is the one it was asked for."""
    mixtures = np.array([scenes_of_looks(background_looks(reading)) for reading in readings])
    return leakage(mixtures, [SCENE_NAMES.index(name) for name in scenes])


def of_references(readings: Sequence[Reading], references: Sequence[Reading], scenes: Sequence[str | None]) -> float:
    """How much of the backgrounds shows a reference picture's scene, 0..1, mean over the pictures; to be read in excess
    of plain sampling's. scenes: each picture's own, which is no leakage (None: not named)."""
    shown = {int(reference.scene.argmax()) for reference in references}
    shares = []
    for reading, scene in zip(readings, scenes):
        others = shown - {SCENE_NAMES.index(scene)} if scene else shown
        shares.append(scenes_of_looks(background_looks(reading))[sorted(others)].sum())
    return float(np.mean(shares))


def leakage_beside_plain(mixtures: np.ndarray, plain: np.ndarray) -> float:
    """Leakage of a set whose captions leave the scenes open: a picture's own look is what plain sampling drew.

    mixtures, plain: (N, L), `background_looks` of a method's pictures and of plain sampling's from the same noise. What
    belongs to another picture is its scene, in whatever look (a strip of it hardly tells which); of a picture's own
    scene, the other picture's look alone. Only the excess over plain's own, leakage_beside_plain(plain, plain), says
    something. Raises ValueError for another number of plain pictures.
    """
    mixtures, own = np.asarray(mixtures, dtype=float), np.asarray(plain).argmax(axis=1).tolist()
    if len(mixtures) != len(own):
        raise ValueError(f"leakage: got {len(mixtures)} backgrounds and {len(own)} plain ones, expected as many.")
    return float(np.mean([row[_foreign(mine, own)].sum() for row, mine in zip(mixtures, own)]))


def _foreign(mine: int, own: Sequence[int]) -> list[int]:
    """The looks that show what is another picture's, for a picture whose own look is `mine`."""
    here, theirs = SCENE_LOOKS[mine][0], {SCENE_LOOKS[look][0] for look in own}
    return [
        look
        for look, (scene, _) in enumerate(SCENE_LOOKS)
        if (scene in theirs if scene != here else look != mine and look in own)
    ]
