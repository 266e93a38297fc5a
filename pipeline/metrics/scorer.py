"""What a scorer is: it turns the images of a finished unit into numbers that carry their protocol. No torch here."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from PIL import Image

Values = dict[str, float | list[float] | list[list[float]]]
RANDOM = "random (no weights staged)"  # stands in a protocol for the weights' sha256


@dataclass(frozen=True)
class UnitImages:
    """The images of one unit, in order, with what is needed to judge them.

    images   B pictures, all of one size; opened but not decoded ones will do
    prompts  B prompts, as they were sampled
    subject  the subject's words ("a blue bus")
    masks    (B, h, w) bool: where the subject is, at half the latent's resolution; None where none were stored
    hashes   B sha256 of the images, which key cached embeddings; of the pixels where not given
    content  the prompt set (style, subject, concept, settings), for scorers that know the truth about it
    references  the set's reference pictures as a unit of their own: R pictures of the images' size and their prompts,
                masks where the sampler kept some of all R; None for a set without any
    """

    images: Sequence[Image.Image]
    prompts: Sequence[str]
    subject: str
    masks: np.ndarray | None = None
    hashes: Sequence[str] = field(default=())
    content: dict | None = None
    references: "UnitImages | None" = None

    def __post_init__(self):
        count = len(self.images)
        if len(self.prompts) != count:
            raise ValueError(f"a unit of {count} images needs {count} prompts, got {len(self.prompts)}")
        if self.masks is not None and (self.masks.ndim != 3 or len(self.masks) != count):
            raise ValueError(f"masks of {count} images are (B={count}, h, w), got {self.masks.shape}")
        if not self.hashes:
            object.__setattr__(self, "hashes", tuple(pixel_hash(image) for image in self.images))
        if len(self.hashes) != count:
            raise ValueError(f"a unit of {count} images needs {count} hashes, got {len(self.hashes)}")


def pixel_hash(image: Image.Image) -> str:
    """sha256 of an image's mode, size and pixels."""
    head = f"{image.mode} {image.size[0]}x{image.size[1]} ".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()


class Scorer(Protocol):
    """Numbers from units. The same images and protocol give the same numbers, whatever the batch."""

    name: str
    protocol: dict  # JSON: scorer, formula, library and version, weights and their hash, preprocessing, background

    def score_many(self, units: Sequence[UnitImages]) -> list[Values]:
        """One mapping per unit, metric -> number or one number per image or pair. Batched over units.

        A metric that a unit gives no basis for (no masks, a single image) is absent, never zero.
        """

    def score(self, unit: UnitImages) -> Values:
        """The numbers of one unit."""


class Embedder(Protocol):
    """A network that turns an image into a vector (D,), float32; its protocol says which and with which weights."""

    name: str
    protocol: dict

    def embed(self, images: Sequence[Image.Image]) -> np.ndarray:
        """(B, D) float32."""


def rounded(values: Sequence[float] | np.ndarray | float) -> list[float] | float:
    """Numbers as they are stored: six decimals, so that batching and caching don't show (float32 gives about 1e-7)."""
    array = np.round(np.asarray(values, dtype=np.float64), 6) + 0.0  # + 0.0: no negative zero
    return array.tolist()
