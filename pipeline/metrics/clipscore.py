"""Prompt alignment: CLIPScore (Hessel et al., arXiv 2104.08718), mean over a unit's images."""

from collections.abc import Sequence

import numpy as np

from svdstory.pipeline.metrics.cache import EmbeddingCache
from svdstory.pipeline.metrics.clip_embedder import ClipEmbedder
from svdstory.pipeline.metrics.regions import whole
from svdstory.pipeline.metrics.scorer import UnitImages, Values, rounded

WEIGHT = 2.5


class ClipScore:
    """2.5 * max(cos(image, prefix + prompt), 0); CLIP's prefix is "A photo depicts "."""

    def __init__(self, name: str, embedder: ClipEmbedder, cache: EmbeddingCache):
        self.name, self.embedder, self.cache = name, embedder, cache
        self.protocol = {
            "scorer": name,
            "formula": f"{WEIGHT} * max(cos, 0), caption prefix {embedder.caption_prefix!r}, mean over images",
            **embedder.protocol,
            "background": "whole image",
        }

    def score_many(self, units: Sequence[UnitImages]) -> list[Values]:
        """`clipscore` (mean) and `clipscore_images` (B numbers) for each unit."""
        pictures = self.cache.embed(self.embedder, [whole(unit) for unit in units])  # per unit: (B, D)
        results = []
        for unit, images in zip(units, pictures):
            texts = self.embedder.embed_texts([self.embedder.caption_prefix + prompt for prompt in unit.prompts])  # B D
            scores = WEIGHT * np.maximum((images.astype(np.float64) * texts).sum(axis=1), 0)  # B
            results.append({"clipscore": rounded(scores.mean()), "clipscore_images": rounded(scores)})
        return results

    def score(self, unit: UnitImages) -> Values:
        return self.score_many([unit])[0]
