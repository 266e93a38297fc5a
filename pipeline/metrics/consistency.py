"""Subject consistency of a set: mean over pairs of its images, whole and with the background filled.

`clip-i` gives the cosine similarity of CLIP embeddings, `dino-i` that of DINO's class tokens (both: higher = more alike;
DreamBooth's CLIP-I and DINO, arXiv 2208.12242, section 4.2, between a set's own images, as there are no references),
`dreamsim` gives DreamSim's distance (1 - cosine; lower = more alike; Fu et al., arXiv 2306.09344). All are linear in
the cosine. Of a set with reference pictures each image is also set beside each of these: `<metric>_reference`, the mean.
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


def cosines_between(embeddings: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(B, D), (R, D) -> (B, R) float64."""
    one, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in map(np.float64, (embeddings, others)))
    return one @ other.T


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
        of = [*units, *(unit.references for unit in units if unit.references)]
        embedded = self.cache.embed(self.embedder, [whole(u) for u in of] + [subject_only(u, self.fill) for u in of])
        both = list(zip(embedded[: len(of)], embedded[len(of) :]))  # whole, subject alone
        shown, results = iter(both[len(units) :]), []
        for unit, own in zip(units, both):
            values: Values = {}
            others = next(shown) if unit.references else (None, None)
            for suffix, images, references in zip(("", "_subject"), own, others):
                values |= self._values(images, suffix) | self._beside(images, references, suffix)
            results.append(values)
        return results

    def _beside(self, embeddings: np.ndarray | None, references: np.ndarray | None, suffix: str) -> Values:
        if embeddings is None or references is None:
            return {}
        cosine = cosines_between(embeddings, references).mean()
        return {f"{self.metric}_reference{suffix}": rounded(1 - cosine if self.distance else cosine)}

    def _values(self, embeddings: np.ndarray | None, suffix: str) -> Values:
        if embeddings is None or len(embeddings) < 2:
            return {}
        pairs = pairwise_cosines(embeddings)
        pairs = 1 - pairs if self.distance else pairs
        name = self.metric + suffix
        return {name: rounded(pairs.mean()), f"{name}_pairs": rounded(pairs)}

    def score(self, unit: UnitImages) -> Values:
        return self.score_many([unit])[0]
