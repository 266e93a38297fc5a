"""One line of a certificate: what it claims, the numbers that were measured, their bounds, the verdict. No torch here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

Verdict = Literal["holds", "fails", "not measured"]


@dataclass(frozen=True)
class Number:
    """A number that was measured, and where it may lie. Without bounds it is told, not judged."""

    what: str
    value: float
    least: float = -math.inf
    most: float = math.inf

    @property
    def holds(self) -> bool:
        """Not-a-number does not."""
        return self.least <= self.value <= self.most

    @property
    def is_judged(self) -> bool:
        return math.isfinite(self.least) or math.isfinite(self.most)


@dataclass(frozen=True)
class Line:
    """What one check found.

    claim: what holds if all numbers lie within their bounds. words: what else there is to say, or why nothing was
    measured. pictures: label -> the pictures of a row. curves: panel -> name -> numbers, largest first. broken: what
    went wrong where the check itself did not come to its end.
    """

    claim: str
    numbers: Sequence[Number] = ()
    words: str = ""
    pictures: dict[str, list[Image.Image]] | None = None
    curves: dict[str, dict[str, list[float]]] | None = None
    broken: str = ""

    @property
    def verdict(self) -> Verdict:
        if self.broken or not all(number.holds for number in self.numbers):
            return "fails"
        return "holds" if any(number.is_judged for number in self.numbers) else "not measured"
