"""CQS, the Consistency Quality Score: identity and alignment in one number that punishes whoever has only one of them.

ASemConsist (arXiv 2512.23245) proposes the harmonic mean of identity and alignment, image by image. Of B images x_i with
prompts p_i, by one CLIP network:

    1. I_i = mean over j != i of max(cos(x_i, x_j), 0)         identity, 0 to 1
    2. A_i = min(2.5 max(cos(x_i, prefix + p_i), 0), 1)        alignment: CLIPScore of the image, cut at 1
    3. CQS = mean over i of 2 I_i A_i / (I_i + A_i), 0 where both are 0

A method that draws one picture again and again has I = 1 and loses by A; plain sampling the other way round. Which
networks the paper takes is not known here: its numbers and these are not to be set side by side, methods under one
protocol are. `_subject`: I of the subjects with the background filled, A of the whole images.
"""

from collections.abc import Sequence

import numpy as np

from svdstory.pipeline.metrics.cache import EmbeddingCache
from svdstory.pipeline.metrics.clip_embedder import ClipEmbedder
from svdstory.pipeline.metrics.clipscore import WEIGHT
from svdstory.pipeline.metrics.names import Fill
from svdstory.pipeline.metrics.regions import FILLS, subject_only, whole
from svdstory.pipeline.metrics.scorer import UnitImages, Values, rounded


def identity(embeddings: np.ndarray) -> np.ndarray:
    """(B, D), B of at least 2 -> (B,): how alike each image is to the others."""
    unit = embeddings.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = np.maximum(unit @ unit.T, 0)  # B B
    np.fill_diagonal(cosines, 0)
    return cosines.sum(axis=1) / (len(unit) - 1)


def harmonic(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(B,), (B,), none negative -> (B,): the harmonic mean, 0 where both are."""
    both = one + other
    return np.divide(2 * one * other, both, out=np.zeros_like(both), where=both > 0)


class ConsistencyQuality:
    """Mean over a set's images of the harmonic mean of identity and alignment. Higher = better, 0 to 1."""

    def __init__(self, name: str, embedder: ClipEmbedder, cache: EmbeddingCache, fill: Fill):
        self.name, self.embedder, self.cache, self.fill = name, embedder, cache, fill
        self.protocol = {
            "scorer": name,
            "formula": "mean over images of 2 I A / (I + A); I: mean over the others of max(cos, 0); "
            f"A: min({WEIGHT} * max(cos, 0), 1) to the prompt, caption prefix {embedder.caption_prefix!r}",
            **embedder.protocol,
            "background": f"whole image; _subject: I outside the sampler's subject mask {FILLS[fill]}",
        }

    def score_many(self, units: Sequence[UnitImages]) -> list[Values]:
        """For each unit `cqs` and `cqs_images` (B numbers), and with `_subject` where it has usable masks."""
        count = len(units)
        views = [whole(unit) for unit in units] + [subject_only(unit, self.fill) for unit in units]
        vectors = self.cache.embed(self.embedder, views)
        return [self._values(unit, *of) for unit, *of in zip(units, vectors[:count], vectors[count:])]

    def _values(self, unit: UnitImages, images: np.ndarray, subjects: np.ndarray | None) -> Values:
        if len(images) < 2:
            return {}
        texts = self.embedder.embed_texts([self.embedder.caption_prefix + prompt for prompt in unit.prompts])  # B D
        cosines = (images.astype(np.float64) * texts).sum(axis=1)  # B
        aligned, values = np.minimum(WEIGHT * np.maximum(cosines, 0), 1), {}
        for suffix, vectors in (("", images), ("_subject", subjects)):
            if vectors is not None:
                scores = harmonic(identity(vectors), aligned)
                values |= {f"cqs{suffix}": rounded(scores.mean()), f"cqs{suffix}_images": rounded(scores)}
        return values

    def score(self, unit: UnitImages) -> Values:
        return self.score_many([unit])[0]
