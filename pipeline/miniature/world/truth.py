"""Ground-truth metrics: what a set of pictures has in common and what it should not, in the world's own units.

Pure functions of readings: what the judge sees in each picture of a set, or the truth itself for rendered ones.
Symbols: N pictures of a set, S pixels a side, P patches a side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from svdstory.pipeline.miniature.world.identity import PATTERNS
from svdstory.pipeline.miniature.world.render import Picture
from svdstory.pipeline.miniature.world.views import ACCESSORY_NAMES, KINDS, SCENE_LOOKS, SCENE_NAMES

PATCHES = 16  # a side: small enough that most show one background alone
WORN = ("", *ACCESSORY_NAMES)  # what a subject may have on: nothing first
SUBJECT_SHARE = 0.07  # of the picture: half of what the world's smallest subject covers


@dataclass(frozen=True)
class Reading:
    """One picture. Probabilities: kind (kinds,), accessory (WORN), look (looks,), patch_look (P, P, looks), striped 0..1.

    body_hue, accent_hue: degrees; shape: 0..1; mask, accessory_mask: bool (S, S), where the subject and its accessory
    are. Looks are those of all scenes, SCENE_LOOKS.
    """

    kind: np.ndarray
    accessory: np.ndarray
    look: np.ndarray
    patch_look: np.ndarray
    body_hue: float
    accent_hue: float
    striped: float
    shape: float
    mask: np.ndarray
    accessory_mask: np.ndarray

    @property
    def shows_subject(self) -> bool:
        return bool(self.mask.mean() >= SUBJECT_SHARE)

    @property
    def scene(self) -> np.ndarray:
        """The probability of each scene, (scenes,)."""
        return scenes_of_looks(self.look)


# (looks, scenes): which look is which scene's.
_SCENE_OF_LOOK = np.array([[float(scene == name) for name in SCENE_NAMES] for scene, _ in SCENE_LOOKS])


def scenes_of_looks(looks: np.ndarray) -> np.ndarray:
    """Probabilities or shares of looks (..., looks) -> of their scenes (..., scenes)."""
    return looks @ _SCENE_OF_LOOK


def true_reading(picture: Picture) -> Reading:
    """What a perfect judge would read from a rendered picture."""
    view, identity = picture.view, picture.view.identity
    look = np.eye(len(SCENE_LOOKS))[SCENE_LOOKS.index((view.scene, view.look))]
    return Reading(
        kind=np.eye(len(KINDS))[KINDS.index(view.kind)],
        accessory=np.eye(len(WORN))[WORN.index(view.accessory)],
        look=look,
        patch_look=np.broadcast_to(look, (PATCHES, PATCHES, len(SCENE_LOOKS))).copy(),
        body_hue=float(identity.body_hue),
        accent_hue=float(identity.accent_hue),
        striped=float(PATTERNS.index(identity.pattern)),
        shape=identity.shape,
        mask=picture.mask,
        accessory_mask=picture.accessory_mask,
    )


def hue_angle(one: float, other: float) -> float:
    """The angle between two hues in degrees, 0..180."""
    return abs((one - other + 180.0) % 360.0 - 180.0)


def mean_over_pairs(readings: Sequence[Reading], distance: Callable[[Reading, Reading], float]) -> float:
    """The mean of `distance` over all pairs of a set. Raises ValueError for fewer than two pictures."""
    if len(readings) < 2:
        raise ValueError(f"A set of {len(readings)} pictures has no pairs to compare; it needs at least 2.")
    return float(np.mean([distance(one, other) for one, other in combinations(readings, 2)]))


def body_hue_distance(readings: Sequence[Reading]) -> float:
    """Mean pairwise angle between body hues in degrees: 0 the same subject, about 90 independent ones."""
    return mean_over_pairs(readings, lambda one, other: hue_angle(one.body_hue, other.body_hue))


def accent_hue_distance(readings: Sequence[Reading]) -> float:
    """Mean pairwise angle between accent hues in degrees."""
    return mean_over_pairs(readings, lambda one, other: hue_angle(one.accent_hue, other.accent_hue))


def pattern_distance(readings: Sequence[Reading]) -> float:
    """Share of pairs whose patterns differ, by the judge's probabilities: 0 alike, about 0.5 independent."""
    return mean_over_pairs(
        readings, lambda one, other: one.striped * (1 - other.striped) + other.striped * (1 - one.striped)
    )


def shape_distance(readings: Sequence[Reading]) -> float:
    """Mean pairwise difference of the shape parameter: 0 alike, about 1/3 independent."""
    return mean_over_pairs(readings, lambda one, other: abs(one.shape - other.shape))


def distance(one: Reading, other: Reading) -> float:
    """How far two pictures' subjects are from being one: 0 the same, about 1 strangers; `identity_distance` of the two."""
    return identity_distance([one, other])


def identity_distance(readings: Sequence[Reading]) -> float:
    """How far the subjects of a set are from being one: 0 one subject, about 1 independent draws.

    The mean of the four distances above, each over what independent draws of the world give.
    """
    parts = (
        body_hue_distance(readings) / 90.0,
        accent_hue_distance(readings) / 90.0,
        pattern_distance(readings) / 0.5,
        shape_distance(readings) * 3.0,
    )
    return float(np.mean(parts))


def kind_accuracy(readings: Sequence[Reading], kind: str) -> float:
    """Share of pictures that show `kind`, and a subject at all. Raises ValueError for a kind that the world lacks."""
    kinds = [reading.kind if reading.shows_subject else None for reading in readings]
    return _accuracy(kinds, [kind] * len(readings), KINDS, "kind")


def scene_accuracy(readings: Sequence[Reading], scenes: Sequence[str]) -> float:
    """Share of pictures that show their own scene of `scenes` (N names)."""
    return _accuracy([reading.scene for reading in readings], scenes, SCENE_NAMES, "scene")


def accessory_accuracy(readings: Sequence[Reading], accessories: Sequence[str]) -> float:
    """Share of pictures whose subject has its own of `accessories` (N names of WORN) and no other."""
    return _accuracy([reading.accessory for reading in readings], accessories, WORN, "accessory")


def _accuracy(
    probabilities: Sequence[np.ndarray | None], wanted: Sequence[str], names: tuple[str, ...], what: str
) -> float:
    if len(probabilities) != len(wanted):
        raise ValueError(
            f"{what} accuracy: got {len(probabilities)} pictures and {len(wanted)} names, expected as many."
        )
    for name in wanted:
        if name not in names:
            raise ValueError(f"{what} accuracy: unknown {what} {name!r}, expected one of {', '.join(names)}.")
    return float(
        np.mean(
            [given is not None and names[int(given.argmax())] == name for given, name in zip(probabilities, wanted)]
        )
    )


def background_similarity(pictures: Sequence[np.ndarray], readings: Sequence[Reading]) -> float:
    """How alike the backgrounds of a set are, -1..1; to be read in excess of plain sampling's on the same prompts.

    Mean pairwise correlation of the pixels (S, S, 3) that are background in both pictures of a pair.
    """
    backgrounds = [np.asarray(picture, dtype=float) for picture in pictures]
    similarities = []
    for (one, read), (other, read_other) in combinations(zip(backgrounds, readings), 2):
        both = ~(read.mask | read.accessory_mask | read_other.mask | read_other.accessory_mask)
        if both.sum() > 1:
            similarities.append(float(np.corrcoef(one[both].ravel(), other[both].ravel())[0, 1]))
    return float(np.mean(similarities)) if similarities else 0.0


@dataclass(frozen=True)
class Placement:
    """Where the subject is, in parts of the picture: centre x and y, and scale, the square root of its area."""

    x: float
    y: float
    scale: float


def placement(mask: np.ndarray) -> Placement | None:
    """Mask bool (S, S) -> the subject's placement, or None where there is none."""
    rows, columns = np.nonzero(mask)
    if len(rows) == 0:
        return None
    size = mask.shape[0]
    return Placement(float((columns.mean() + 0.5) / size), float((rows.mean() + 0.5) / size), float(mask.mean() ** 0.5))


def layout_variety(readings: Sequence[Reading]) -> float:
    """How differently the subjects of a set stand: mean pairwise distance of their centres, in picture widths."""
    return _mean_over_placements(readings, lambda one, other: float(np.hypot(one.x - other.x, one.y - other.y)))


def pose_variety(readings: Sequence[Reading]) -> float:
    """How differently the subjects of a set are drawn, place and all: 1 - mean pairwise overlap (IoU) of masks."""
    return mean_over_pairs(
        readings,
        lambda one, other: 1.0 - float((one.mask & other.mask).sum()) / max(1, int((one.mask | other.mask).sum())),
    )


def _mean_over_placements(readings: Sequence[Reading], distance: Callable[[Placement, Placement], float]) -> float:
    """Over the pictures with a subject; 0.0 if fewer than two have one."""
    placed = [place for place in (placement(reading.mask) for reading in readings) if place is not None]
    if len(placed) < 2:
        return 0.0
    return float(np.mean([distance(one, other) for one, other in combinations(placed, 2)]))
