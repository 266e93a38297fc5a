"""The switches of the spectral filter of an anchor's K or V. Imports without torch."""

from typing import Literal

from pydantic import Field, model_validator

from svdstory.pipeline.config.strict import Strict

TRUNCATIONS = ("keep_top", "keep_fraction", "keep_energy", "keep")
REWEIGHTINGS = ("reweight", "clip", "power")


class SpectralFilter(Strict):
    """What is done to the singular values of an anchor's K or V: truncation, then reweighting, or one of them."""

    keep_top: int | None = Field(None, ge=1)  # the N largest
    keep_fraction: float | None = Field(None, gt=0, le=1)  # sigma >= quantile(sigma, 1 - q)
    keep_energy: float | None = Field(None, gt=0)  # the fewest N whose share of sum sigma^2 is over q
    keep: Literal["gavish-donoho", "effective-rank"] | None = None  # a rank that the spectrum itself gives
    reweight: Literal["exp", "log", "log2"] | None = None
    alpha: float | None = Field(None, gt=0)  # of exp: sigma * e^(alpha sigma)
    clip: int | None = Field(None, ge=1)  # min(sigma, sigma_(k+1)): the k largest come down to the next
    power: float | None = Field(None, gt=0)  # sigma^p
    rescale: bool = True  # a reweighting keeps the norm of what is kept; false: f(sigma) as printed
    granularity: Literal["full", "head"] = "full"  # the spectrum of the full width, or of each head by itself
    every: int = Field(1, ge=1)  # filter at each k-th of those steps, starting with the first
    steps: tuple[int, int] | None = None  # filter at these steps only, both included, counted from 0

    @model_validator(mode="after")
    def _possible(self):
        keeps, changes = (
            [name for name in names if getattr(self, name) is not None] for names in (TRUNCATIONS, REWEIGHTINGS)
        )
        for given in (keeps, changes):
            if len(given) > 1:
                raise ValueError(f"{' and '.join(given)} exclude each other: give one")
        if not keeps and not changes:
            raise ValueError(
                f"an empty filter: give one of {', '.join(TRUNCATIONS)}, or of {', '.join(REWEIGHTINGS)}; "
                "leave the filter out to keep K or V as it is"
            )
        if self.power == 1:
            raise ValueError("power 1 would do nothing: give another one, or leave it out")
        if not self.rescale and not changes:
            raise ValueError(f"rescale: false would do nothing: it needs one of {', '.join(REWEIGHTINGS)}")
        if (self.alpha is not None) != (self.reweight == "exp"):
            raise ValueError("alpha belongs to reweight: exp, and exp needs it: give both or neither")
        if self.steps is not None and not 0 <= self.steps[0] <= self.steps[1]:
            raise ValueError(f"steps {list(self.steps)}: give [first, last] with 0 <= first <= last")
        if self.steps is not None and self.steps[0] == 0 and self.every > self.steps[1]:
            raise ValueError(
                f"steps {list(self.steps)} with every {self.every} would do nothing: at step 0 there is no "
                "extended attention to filter. Start at step 1 or later"
            )
        return self

    @property
    def reweights(self) -> bool:
        """Whether what is kept is changed."""
        return self.reweight is not None or self.clip is not None or self.power is not None

    @property
    def truncates(self) -> bool:
        """Whether singular values are dropped: a share of 1 or more keeps all."""
        shares = [share for share in (self.keep_fraction, self.keep_energy) if share is not None]
        return self.keep_top is not None or self.keep is not None or any(share < 1 for share in shares)

    def acts_at(self, step: int) -> bool:
        """Whether the filter is on at this step (from 0). Where it is off, K and V stay as they are."""
        first, last = self.steps or (1, step)  # the first step has no extended attention
        return first <= step <= last and (step - first) % self.every == 0
