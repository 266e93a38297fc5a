"""What of an image a scorer sees: all of it, the subject alone, or the background alone.

What is left out is filled with noise (seeded by the image) or a flat grey. B images, h × w mask cells, H × W pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from svdstory.pipeline.metrics.names import Fill
from svdstory.pipeline.metrics.scorer import UnitImages

FILLS = {
    "noise": "uniform noise seeded by the image, as DreamSim's authors and ConsiStory's do",
    "flat": "flat grey (128, 128, 128)",
}
GREY = 128


@dataclass(frozen=True)
class View:
    """B pictures of one unit, made only when needed. `keys` name image, mask and fill: they key the cache."""

    keys: Sequence[str]
    make: Sequence[Callable[[], Image.Image]]


def whole(unit: UnitImages) -> View:
    """The images as they are."""
    return View(tuple(unit.hashes), [partial(_same, image) for image in unit.images])


def subject_only(unit: UnitImages, fill: Fill) -> View | None:
    """The subject on a filled background. None where masks are missing or one of them is empty or full."""
    return _masked(unit, fill, "subject")


def background_only(unit: UnitImages, fill: Fill) -> View | None:
    """The background with the subject filled. None where masks are missing or one of them is empty or full."""
    return _masked(unit, fill, "background")


def usable(masks: np.ndarray | None) -> bool:
    """Whether every image has both subject and background."""
    return masks is not None and bool(masks.any(axis=(1, 2)).all() and not masks.all(axis=(1, 2)).any())


def upsampled(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool at an image's (width, height): (H, W) bool, nearest."""
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(picture.resize(size, Image.Resampling.NEAREST)) > 127


def filled(image: Image.Image, keep: np.ndarray, fill: Fill, seed: str) -> Image.Image:
    """`image` where `keep` (H, W) is true, else noise or grey. `seed` is hexadecimal (the image's sha256)."""
    pixels = np.asarray(image.convert("RGB"))  # H W 3
    if fill == "noise":
        other = np.random.default_rng(int(seed[:16], 16)).integers(0, 256, pixels.shape, dtype=np.uint8)
    else:
        other = np.full_like(pixels, GREY)
    return Image.fromarray(np.where(keep[..., None], pixels, other))


def _masked(unit: UnitImages, fill: Fill, part: str) -> View | None:
    if not usable(unit.masks):
        return None
    keys, make = [], []
    for image, mask, sha in zip(unit.images, unit.masks, unit.hashes):
        keep = mask if part == "subject" else ~mask
        keys.append(f"{sha} {part} {fill} {mask.shape} {np.packbits(mask).tobytes().hex()}")
        make.append(partial(_partly, image, keep, fill, sha))
    return View(keys, make)


def _same(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _partly(image: Image.Image, keep: np.ndarray, fill: Fill, sha: str) -> Image.Image:
    return filled(image, upsampled(keep, image.size), fill, sha)
