"""Background leakage: how alike the backgrounds of a set are, with the subject filled.

The prompts of a set ask for different places, so similar backgrounds are a side effect. Some similarity is there
without any method (style, subject's usual places, the fill): what is reported is the excess over plain SDXL's with the
same set and seed, taken pair by pair in the statistics.
"""

from collections.abc import Sequence

from svdstory.pipeline.metrics.cache import EmbeddingCache
from svdstory.pipeline.metrics.consistency import pairwise_cosines
from svdstory.pipeline.metrics.names import Fill
from svdstory.pipeline.metrics.regions import FILLS, background_only
from svdstory.pipeline.metrics.scorer import Embedder, UnitImages, Values, rounded


class Background:
    """Mean pairwise cosine similarity of a set's backgrounds. Higher = more alike = more leakage."""

    def __init__(self, name: str, embedder: Embedder, cache: EmbeddingCache, fill: Fill):
        self.name, self.embedder, self.cache, self.fill = name, embedder, cache, fill
        self.protocol = {
            "scorer": name,
            "formula": "mean over a set's pairs of cos of their backgrounds",
            **embedder.protocol,
            "background": f"alone; inside the sampler's subject mask {FILLS[fill]}",
        }

    def score_many(self, units: Sequence[UnitImages]) -> list[Values]:
        """`background` and `background_pairs` for each unit of at least two images with usable masks."""
        embeddings = self.cache.embed(self.embedder, [background_only(unit, self.fill) for unit in units])
        results = []
        for vectors in embeddings:
            if vectors is None or len(vectors) < 2:
                results.append({})
                continue
            pairs = pairwise_cosines(vectors)
            results.append({"background": rounded(pairs.mean()), "background_pairs": rounded(pairs)})
        return results

    def score(self, unit: UnitImages) -> Values:
        return self.score_many([unit])[0]
