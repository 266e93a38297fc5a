"""Layout diversity: how far matched features of a set's images lie apart (ConsiStory, arXiv 2402.03286, section 5).

ConsiStory matches DIFT features of the generator; here DINO's tokens of the finished images, so that it can be
recomputed without the GPU run. Only the comparison with plain SDXL's same set and seed means something.
B images, T = GRID × GRID tokens, D channels.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from svdstory.pipeline.metrics.dino import GRID, DinoTokens
from svdstory.pipeline.metrics.scorer import UnitImages, Values, rounded


def displacement(a: np.ndarray, b: np.ndarray, kept_a: np.ndarray, kept_b: np.ndarray) -> float:
    """Mean distance between mutual nearest neighbours, in image sides; 0 = same places.

    a, b (T, D) unit norm; kept_a, kept_b (T,) bool with at least one true each: tokens that take part.
    """
    places_a, places_b = np.flatnonzero(kept_a), np.flatnonzero(kept_b)
    similarity = a[places_a] @ b[places_b].T  # Ta Tb
    to_b, to_a = similarity.argmax(axis=1), similarity.argmax(axis=0)
    mutual = np.flatnonzero(to_a[to_b] == np.arange(len(places_a)))  # never empty: the best pair of all is mutual
    start, end = places_a[mutual], places_b[to_b[mutual]]
    rows, columns = start // GRID - end // GRID, start % GRID - end % GRID
    return float(np.hypot(rows, columns).mean() / GRID)


def token_masks(masks: np.ndarray) -> np.ndarray:
    """(B, h, w) bool -> (B, T) bool: tokens of which more than half lies in the mask."""
    cells = [
        np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize((GRID, GRID), Image.Resampling.BOX))
        for mask in masks
    ]
    return (np.stack(cells) > 127).reshape(len(masks), -1)


class Layout:
    """Mean displacement of matched DINO tokens over a set's pairs, of whole images and of the subject alone."""

    def __init__(self, name: str, network: DinoTokens):
        self.name, self.network = name, network
        self.protocol = {
            "scorer": name,
            "formula": f"mean over pairs, displacement of mutual nearest tokens of {GRID} × {GRID}, in image sides",
            **network.protocol,
            "background": "whole image; _subject: tokens inside the sampler's subject mask",
        }

    def score_many(self, units: Sequence[UnitImages]) -> list[Values]:
        """`layout`, `layout_pairs`, and with usable masks `layout_subject`, `layout_subject_pairs`, for each unit."""
        tokens = self.network.tokens([image for unit in units for image in unit.images])  # (sum of B) T D
        starts = np.cumsum([0] + [len(unit.images) for unit in units])
        return [self._values(unit, tokens[start : start + len(unit.images)]) for unit, start in zip(units, starts)]

    def _values(self, unit: UnitImages, tokens: np.ndarray) -> Values:
        everything = np.ones(tokens.shape[:2], dtype=bool)  # B T
        values = _over_pairs("layout", tokens, everything)
        if unit.masks is not None:
            subject = token_masks(unit.masks)
            if subject.any(axis=1).all():
                values |= _over_pairs("layout_subject", tokens, subject)
        return values

    def score(self, unit: UnitImages) -> Values:
        return self.score_many([unit])[0]


def _over_pairs(name: str, tokens: np.ndarray, kept: np.ndarray) -> Values:
    pairs = [
        displacement(tokens[i], tokens[j], kept[i], kept[j])
        for i in range(len(tokens))
        for j in range(i + 1, len(tokens))
    ]
    return {name: rounded(np.mean(pairs)), f"{name}_pairs": rounded(pairs)} if pairs else {}
