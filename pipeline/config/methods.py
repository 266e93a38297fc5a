"""What a method is: the switches of the sampler, their named combinations and their sweeps. Imports without torch."""

from collections.abc import Collection
from typing import Literal

from pydantic import Field, field_validator, model_validator

from svdstory.pipeline.config.brought import OwnFunction, OwnPictures
from svdstory.pipeline.config.families import OnePrompt, StoryDiffusion, StyleAligned
from svdstory.pipeline.config.spectral_filter import SpectralFilter
from svdstory.pipeline.config.strict import InputError, Strict
from svdstory.pipeline.config.tuning import Recipe, Tuning, Word

SELF_ATTENTION = ("storydiffusion", "style_aligned")  # families that exclude extended attention and one another
BLENDING_FROM = 10  # steps: query blending lasts a tenth of them
TOLERANCE = 1e-3  # relative Frobenius error of a filtered K or V; float16 itself rounds by 2e-4 to 5e-4


class FreeU(Strict):
    """FreeU (arXiv 2309.11497): skip scales s1, s2 and backbone scales b1, b2 of the first two up blocks."""

    s1: float
    s2: float
    b1: float
    b2: float


class Method(Strict):
    """The switches of the sampler. By default all are off: plain SDXL.

    Raises ValueError (inside `parse`: InputError) for a combination that is impossible or where a switch
    would silently do nothing.
    """

    extended_attention: Literal["off", "masked", "unmasked"] = "off"
    n_anchors: int = Field(0, ge=0)  # the first n_anchors images of a set
    mask_dropout: float = Field(0.0, ge=0, lt=1)
    query_blending: bool = False
    feature_injection: bool = False
    same_latent: bool = False
    reference: Literal["anchors", "random"] = "anchors"
    filter_k: SpectralFilter | None = None
    filter_v: SpectralFilter | None = None
    freeu: FreeU | None = None
    storydiffusion: StoryDiffusion | None = None
    style_aligned: StyleAligned | None = None
    oneprompt: OnePrompt | None = None
    function: OwnFunction | None = None
    pictures: OwnPictures | None = None
    inversion: Literal["noise", "ddim"] = "noise"  # of reference pictures: the trajectory that they are replayed on
    renoise: int = Field(0, ge=0, le=10)  # repetitions of each step of `inversion: ddim`
    tuning: Tuning | None = None

    @field_validator("tuning", mode="before")
    @classmethod
    def _one_file_is_a_list_of_one(cls, value):
        value = [value] if isinstance(value, dict) and "file" in value else value
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _stands_alone(self):
        given = self.model_dump(exclude_defaults=True)
        if len(given) > 1 and (self.function or self.pictures):
            others = [name for name in given if name not in ("function", "pictures")] or list(given)
            raise ValueError(
                f"{' and '.join(others)} would do nothing: a method of your own draws by itself. What its function "
                "reads goes into `set`"
            )
        return self

    @model_validator(mode="after")
    def _possible(self):
        extended = self.extended_attention != "off"
        attends_anchors = extended and self.reference == "anchors"
        rules = [
            (
                self.mask_dropout and self.extended_attention != "masked",
                f"mask_dropout {self.mask_dropout} needs extended_attention: masked",
            ),
            (
                self.filters() and not (extended or self.storydiffusion),
                "a spectral filter needs extended_attention: unmasked or masked, or storydiffusion",
            ),
            (self.reference == "random" and not extended, "reference: random needs extended_attention"),
            (
                (attends_anchors or self.feature_injection) and self.n_anchors < 1,
                "extended_attention and feature_injection need n_anchors of at least 1",
            ),
            (
                self.n_anchors and not (attends_anchors or self.feature_injection),
                f"n_anchors {self.n_anchors} would do nothing: it needs extended_attention or feature_injection",
            ),
            (
                self.query_blending and not (extended or self.feature_injection),
                "query_blending would do nothing: it needs extended_attention or feature_injection",
            ),
            (
                self.renoise and self.inversion != "ddim",
                f"renoise {self.renoise} would do nothing: it needs inversion: ddim",
            ),
            (
                self.inversion != "noise" and not self.references_used(1),
                "inversion would do nothing: it needs a method with anchors",
            ),
        ]
        selves = [name for name in SELF_ATTENTION if getattr(self, name) is not None]
        consistory = ["extended_attention"] * extended + ["query_blending"] * self.query_blending
        clashing = selves + consistory + ["feature_injection"] * self.feature_injection
        rules.append(
            (
                selves and len(clashing) > 1,
                f"{' and '.join(clashing)} exclude each other: each says what the same self-attention layers look at. "
                "Choose one; oneprompt, freeu and same_latent go with any",
            )
        )
        broken = [message for wrong, message in rules if wrong]
        if broken:
            raise ValueError("; ".join(broken))
        return self

    def family(self) -> str:
        """The file in pipeline/sampling/families that says what its self-attention does."""
        named = [name for name in SELF_ATTENTION if getattr(self, name) is not None]
        consistory = self.extended_attention != "off" or self.query_blending or self.feature_injection
        return named[0] if named else "consistory" if consistory else "plain"

    def anchors(self, images: int) -> int:
        """How many of a set's images, from the first on, the others look at; in each step these go first."""
        if self.storydiffusion:
            return self.storydiffusion.id_images
        if self.style_aligned:
            return images if self.style_aligned.full_sharing else 1
        return images if self.reference == "random" else self.n_anchors

    def references_used(self, count: int) -> int:
        """How many of a set's `count` reference pictures the method uses, from the first on: as many as it has anchors."""
        if self.function or self.reference == "random" or (self.style_aligned and self.style_aligned.full_sharing):
            return count
        return min(count, self.anchors(count)) if not self.pictures else 0

    def with_references(self, count: int) -> "Method":
        """What the method comes to where `count` pictures are its anchors, and there are no others; with 0 it has its own."""
        if not count:
            return self.model_copy(update={"inversion": "noise", "renoise": 0})
        if self.storydiffusion:
            few = self.storydiffusion.model_copy(update={"id_images": count})
            return self.model_copy(update={"storydiffusion": few})
        return self.model_copy(update={"n_anchors": count}) if self.n_anchors else self

    def filters(self) -> bool:
        """Whether K or V of the anchors are filtered."""
        return self.filter_k is not None or self.filter_v is not None

    def idle(self, steps: int, images: int, asked: Collection[str] = ()) -> list[str]:
        """Switches that would do nothing in so many steps, or in a set of so many images; each with the reason.

        Of query blending that is told only where it is among the switches `asked` for: a shipped method brings it along
        into short trials.
        """
        reasons = []
        extended = self.extended_attention != "off"
        if extended and steps < 2:
            reasons.append(f"extended_attention acts from the second step on, and there is {steps}")
        for key in ("filter_k", "filter_v") if steps > 1 else ():
            chosen = getattr(self, key)
            if chosen is not None and not any(chosen.acts_at(step) for step in range(1, steps)):
                first, last = chosen.steps or (1, steps - 1)
                reasons.append(
                    f"{key} acts at steps {first} to {last}, every {chosen.every}: at none of 1 to {steps - 1}, "
                    "where attention is extended"
                )
        if self.feature_injection and steps < 2:
            reasons.append("feature_injection matches what the steps before the last have shown, and there is one step")
        if "query_blending" in asked and steps < BLENDING_FROM:
            reasons.append(
                f"query_blending lasts a tenth of the steps, and there are {steps}: the same on or off below {BLENDING_FROM}"
            )
        if images < 2:
            alone = {"extended_attention": extended, "feature_injection": self.feature_injection}
            alone |= {"same_latent": self.same_latent}
            reasons += [f"{switch} needs another image, and there is one" for switch, on in alone.items() if on]
        return reasons

    def switches(self) -> dict:
        """What changes pixels, without what is off: stable when a new switch is added."""
        switches = self.model_dump(exclude_defaults=True)
        if self.function:
            return {"function": self.function.content()}
        if isinstance(self.tuning, tuple):
            switches["tuning"] = [file.content() for file in self.tuning]
        elif self.tuning:
            switches["tuning"] = self.tuning.model_dump(exclude_none=True)
        return {"pictures": "made elsewhere"} if self.pictures else switches

    def recipe(self) -> Recipe | None:
        """How its subject is tuned, where it is."""
        return self.tuning if isinstance(self.tuning, Recipe) else None

    def words(self) -> tuple[Word, ...]:
        """The subject's own words in its prompts."""
        learned = self.tuning if isinstance(self.tuning, tuple) else (self.tuning,) if self.tuning else ()
        return tuple(word for one in learned for word in one.words())


def in_rows(method: Method, images: int, references: int) -> tuple[Method, int]:
    """What a set of so many images and reference pictures is to the sampler: the method with the pictures that it uses
    as its anchors, and how many rows go through the UNet."""
    used = method.references_used(references)
    return method.with_references(used), used + images


def check_images(method: Method, images: int) -> None:
    """Raises InputError for a set of too few images, reference pictures among them."""
    if method.anchors(images) > images:
        switch = "storydiffusion.id_images" if method.storydiffusion else "n_anchors"
        raise InputError(
            f"{switch} {method.anchors(images)} with {images} images: at most {images}. "
            "Use fewer of them or add settings to the prompt set."
        )
