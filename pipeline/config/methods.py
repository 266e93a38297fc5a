"""What a method is: the switches of the sampler, their named combinations and their sweeps. Imports without torch."""

import itertools
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from svdstory.pipeline.config.documents import read_yaml
from svdstory.pipeline.config.families import OnePrompt, StoryDiffusion, StyleAligned
from svdstory.pipeline.config.strict import InputError, Strict, choices, each_once, parse

SELF_ATTENTION = ("storydiffusion", "style_aligned")  # families that exclude extended attention and one another
TOLERANCE = 1e-3  # relative Frobenius error of a filtered K or V; float16 itself rounds by 2e-4 to 5e-4


TRUNCATIONS = ("keep_top", "keep_fraction", "keep_energy", "keep")
REWEIGHTINGS = ("reweight", "clip", "power")


class FreeU(Strict):
    """FreeU (arXiv 2309.11497): skip scales s1, s2 and backbone scales b1, b2 of the first two up blocks."""

    s1: float
    s2: float
    b1: float
    b2: float


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

    def filters(self) -> bool:
        """Whether K or V of the anchors are filtered."""
        return self.filter_k is not None or self.filter_v is not None

    def idle(self, steps: int, images: int) -> list[str]:
        """Switches that would do nothing in so many steps, or in a set of so many images; each with the reason."""
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
        if images < 2:
            alone = {"extended_attention": extended, "feature_injection": self.feature_injection}
            alone |= {"same_latent": self.same_latent}
            reasons += [f"{switch} needs another image, and there is one" for switch, on in alone.items() if on]
        return reasons

    def switches(self) -> dict:
        """What changes pixels, without what is off: stable when a new switch is added."""
        return self.model_dump(exclude_defaults=True)


def check_images(method: Method, images: int) -> None:
    """Raises InputError for a set of too few images."""
    if method.anchors(images) > images:
        switch = "storydiffusion.id_images" if method.storydiffusion else "n_anchors"
        raise InputError(
            f"{switch} {method.anchors(images)} with {images} images: at most {images}. "
            "Use fewer of them or add settings to the prompt set."
        )


class MethodEntry(Strict):
    """An entry of methods.yaml or of an experiment: a base, changed switches, and optionally a sweep over some."""

    about: str = ""
    base: str | None = None
    set: dict[str, Any] = {}
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}


@lru_cache
def shipped_entries() -> dict[str, MethodEntry]:
    """The entries of pipeline/config/methods.yaml, by name."""
    content = read_yaml(Path(str(resources.files(__package__))) / "methods.yaml")
    return {name: parse(MethodEntry, entry, f"methods.yaml: {name}") for name, entry in content.items()}


def expand(name: str, entries: dict[str, MethodEntry] | None = None) -> dict[str, Method]:
    """The methods that `name` stands for: itself, or one for each point of its sweep (`name-0.05`).

    Raises InputError for an unknown name, with the nearest known one.
    """
    entries = shipped_entries() if entries is None else entries
    entry = entries.get(name)
    if entry is None:
        points = {
            n: m
            for family, e in entries.items()
            if e.sweep and name.startswith(family + "-")
            for n, m in expand(family, entries).items()
            if n == name
        }
        if points:
            return points
        known = list(entries)
        raise InputError(f"unknown method {name!r}{choices(name, known)}.")
    switches = _base_switches(name, entries)
    _assign_all(switches, entry.set)
    methods = {}
    for point in itertools.product(*entry.sweep.values()):
        swept = _copy(switches)
        _assign_all(swept, dict(zip(entry.sweep, point)))
        label = "-".join([name, *(str(value) for value in point)])
        each_once([*methods, label], "method")
        methods[label] = parse(Method, swept, f"method {label}")
    return methods


def named(name: str) -> Method:
    """The one method of that name. Raises InputError for an unknown name or one that stands for several."""
    methods = expand(name)
    if len(methods) > 1:
        raise InputError(f"{name!r} stands for {len(methods)} methods: choose one of {', '.join(methods)}.")
    return next(iter(methods.values()))


def _base_switches(name: str, entries: dict[str, MethodEntry]) -> dict:
    """The switches of the entry's base. Raises InputError for a base of several methods, or one that comes round."""
    base, above = entries[name].base, [name]
    while base in entries and base not in above:
        above.append(base)
        base = entries[base].base
    if base in above:
        raise InputError(f"method {name}: its bases go round: {' -> '.join([*above, base])}. Base one on another.")
    base = entries[name].base
    if base is None:
        return {}
    methods = expand(base, entries)
    if len(methods) > 1:
        raise InputError(f"base {base!r} stands for {len(methods)} methods: choose one of {', '.join(methods)}.")
    return _copy(next(iter(methods.values())).switches())


def _copy(switches: dict) -> dict:
    return {k: _copy(v) if isinstance(v, dict) else v for k, v in switches.items()}


def _assign_all(switches: dict, changes: dict[str, Any]) -> None:
    """Apply changes in place. `filter` and `filter.x` stand for both filter_k and filter_v."""
    for path, value in changes.items():
        head, *rest = path.split(".")
        for key in ("filter_k", "filter_v") if head == "filter" else (head,):
            _assign(switches, [key, *rest], value, path)


def _assign(switches: dict, keys: list[str], value: Any, path: str) -> None:
    key, *rest = keys
    if not rest:
        switches[key] = _copy(value) if isinstance(value, dict) else value
        return
    inner = switches.get(key) or {}
    if not isinstance(inner, dict):
        raise InputError(f"{path}: {key} is {inner!r} here and has no {rest[0]!r}. Set {key} as a mapping.")
    switches[key] = dict(inner)
    _assign(switches[key], rest, value, path)
