"""Subject consistency of a set: mean over pairs of its images, whole and with the background filled.

`clip-i` gives the cosine similarity of CLIP embeddings, `dino-i` that of DINO's class tokens (both: higher = more alike;
DreamBooth's CLIP-I and DINO, arXiv 2208.12242, section 4.2, between a set's own images, as there are no references),
`dreamsim` gives DreamSim's distance (1 - cosine; lower = more alike; Fu et al., arXiv 2306.09344). All are linear in
the cosine.
"""

from collections.abc import Sequence

import numpy as np

from svdstory.pipeline.metrics.cache import EmbeddingCache
from svdstory.pipeline.metrics.names import Fill, parts
from svdstory.pipeline.metrics.regions import FILLS, subject_only, whole
from svdstory.pipeline.metrics.scorer import Embedder, UnitImages, Values, rounded


def pairwise_cosines(embeddings: np.ndarray) -> np.ndarray:
    """(B, D) -> (B (B - 1) / 2,) float64: pairs (0, 1), (0, 2), ..., (1, 2), ..."""
    unit = embeddings.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    rows, columns = np.triu_indices(len(unit), k=1)
    return (unit[rows] * unit[columns]).sum(axis=1)


class Consistency:
    """Mean pairwise similarity (`clip-i`, `dino-i`) or distance (`dreamsim`) within a set."""

    def __init__(self, name: str, embedder: Embedder, cache: EmbeddingCache, fill: Fill):
        self.name, self.embedder, self.cache, self.fill = name, embedder, cache, fill
        self.distance = name.startswith("dreamsim")
        self.metric = parts(name)[0].replace("-", "_")
        self.protocol = {
            "scorer": name,
            "formula": f"mean over a set's pairs of {'1 - cos' if self.distance else 'cos'}",
            **embedder.protocol,
            "background": f"whole image; _subject: outside the sampler's subject mask {FILLS[fill]}",
        }

    def score_many(self, units: Sequence[UnitImages]) -> list[Values]:
        """For each unit `<metric>` and `<metric>_pairs`, and the same with `_subject` where it has usable masks."""
        views = [whole(unit) for unit in units] + [subject_only(unit, self.fill) for unit in units]
        embeddings = self.cache.embed(self.embedder, views)
        return [
            self._values(images, "") | self._values(subjects, "_subject")
            for images, subjects in zip(embeddings[: len(units)], embeddings[len(units) :])
        ]

    def _values(self, embeddings: np.ndarray | None, suffix: str) -> Values:
        if embeddings is None or len(embeddings) < 2:
            return {}
        pairs = pairwise_cosines(embeddings)
        pairs = 1 - pairs if self.distance else pairs
        name = self.metric + suffix
        return {name: rounded(pairs.mean()), f"{name}_pairs": rounded(pairs)}

    def score(self, unit: UnitImages) -> Values:
        return self.score_many([unit])[0]
