"""Tuned subjects as artefacts: which one a unit needs, what its key is, and units of one subject kept together.

RUN/subjects/<2 hex>/<key>/   its weights, the pictures that it was learned from, manifest.json: published like a unit
RUN/tuning/<key>/<update>.safetensors   where a tuning stands that was interrupted
"""

from bisect import bisect_right
from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import Path

from svdstory.pipeline.config.methods import Method, check_images
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError, digest
from svdstory.pipeline.config.tuning import CUSTOM, DREAMBOOTH, Recipe
from svdstory.pipeline.models import subject_files
from svdstory.pipeline.models.memory import applies, share
from svdstory.pipeline.models.spec import ModelSpec

SCHEMA = 1  # of what a subject is; part of its key
SHELF = "subjects"
ANCHORS = ("anchor_images", "anchor_method")
ROW_S, ROW_CPU_S = 1.1, 0.03  # seconds of a picture in an update: SDXL at 1024 px on a V100 (estimated); the miniature
MATRICES_BYTES = 682e6  # Custom Diffusion's of SDXL, float16
RANK_BYTES = 5.8e6  # LoRA's of SDXL, float32, a rank


@dataclass(frozen=True)
class Sitting:
    """What a subject is tuned from: the set's pictures, or anchors drawn with `seed`, its own or the unit's."""

    key: str
    recipe: Recipe
    prompts: PromptSet
    seed: int


def sitting(
    prompts: PromptSet, method: Method, seed: int, model: ModelSpec, setting: dict, digits: int
) -> Sitting | None:
    """The subject that a unit needs; None for a method that tunes none. setting: as a unit's key has it."""
    recipe = method.recipe()
    if recipe is None:
        return None
    shown = bool(prompts.references)
    seed = 0 if shown and recipe.seed != "unit" else seed
    left_out = {"seed"} | (set(ANCHORS) if shown else set())
    said = {
        "schema": SCHEMA,
        "tuning": recipe.model_dump(exclude=left_out, exclude_none=True),
        "style": prompts.style,
        "subject": prompts.subject,
        "concept": list(prompts.concept),
        "model": model.content(),
        "size": list(setting["size"]),
        "seed": seed,
    }
    if shown:
        said["pictures"] = [reference.content() for reference in prompts.references]
    else:
        drawn = {"negative": prompts.negative, "loras": [lora.content() for lora in prompts.loras], **setting}
        said["anchors"] = {
            "method": named(recipe.anchor_method).switches(),
            "settings": list(prompts.anchor_settings),
            **{key: list(value) if isinstance(value, tuple) else value for key, value in drawn.items()},
        }
    if recipe.prior_weight:
        said["class"] = {"steps": model.steps, "guidance": model.guidance, "scheduler": model.scheduler}
    return Sitting(digest(said)[:digits], recipe, prompts, seed)


def resolved(methods: dict[str, Method], model: ModelSpec, near: Path, offload: str | None = None) -> dict[str, Method]:
    """The methods with their recipes' values and their files found. Raises one InputError for all that is wrong."""
    found, wrong = {}, []
    if tuning := [name for name, method in methods.items() if method.tuning]:
        if model.one_encoder:
            raise InputError(f"method {tuning[0]}: tuning is for SDXL, and {model.name} is Stable Diffusion 1 or 2.")
        if offload:
            raise InputError(
                f"method {tuning[0]}: tuning writes to weights that lie on the device, and offload {offload} takes them off. "
                "Leave `offload` out, or the method.",
                key="offload",
            )
    for name, method in methods.items():
        try:
            found[name] = _resolved(method, model, near)
        except InputError as error:
            wrong.append(f"method {name}: {error}")
    if wrong:
        raise InputError("\n".join(wrong), key="methods")
    return found


def _resolved(method: Method, model: ModelSpec, near: Path) -> Method:
    if isinstance(method.tuning, tuple):
        files = subject_files.located(method.tuning, near, model.text_width(), model.encoder_widths())
        return method.model_copy(update={"tuning": files})
    if method.tuning is None:
        return method
    if model.loras:
        raise InputError(f"tuning: model {model.name} wears LoRA, which training would change. Take a model without.")
    recipe = method.tuning.resolved(model.tuning, model.name)
    anchors = named(recipe.anchor_method)
    if anchors.tuning:
        raise InputError(f"tuning.anchor_method {recipe.anchor_method}: is tuned itself. Name one that is not.")
    check_images(anchors, recipe.anchor_images)
    return method.model_copy(update={"tuning": recipe})


def together(keys: Iterable[str], subjects: dict[str, str]) -> list[list[str]]:
    """The units in groups: those of one subject (unit -> subject) where its first stands, others each alone."""
    found: dict[str, list[str]] = {}
    for key in keys:
        found.setdefault(subjects.get(key, key), []).append(key)
    return list(found.values())


def sliced(groups: list[list[str]], parts: int) -> list[list[str]]:
    """Nearly equal parts of the units, in order, no group in two of them; some may be empty."""
    units, start = sum(map(len, groups)), 0
    bounds, made = [i * units // parts for i in range(parts)], [[] for _ in range(parts)]
    for group in groups:
        made[bisect_right(bounds, start) - 1] += group
        start += len(group)
    return made


def dealt(groups: list[list[str]], parts: int, there: Set[str] = frozenset()) -> list[list[str]]:
    """The groups dealt out in turn: those that are missing, then those that are `there` and only looked at."""
    groups = sorted(groups, key=there.issuperset)
    return [[key for group in groups[n::parts] for key in group] for n in range(min(parts, len(groups)))]


def seconds(sitting: Sitting, model: ModelSpec, size: tuple[int, int]) -> float:
    """What a tuning takes, estimated."""
    recipe = sitting.recipe
    rows = recipe.updates * recipe.pictures * (2 if recipe.prior_weight else 1)
    return rows * (ROW_S * share(size) if applies(model) else ROW_CPU_S)


def disk_bytes(sitting: Sitting, model: ModelSpec, size: tuple[int, int]) -> float:
    """Disk that a subject takes, its pictures with it."""
    recipe, full = sitting.recipe, applies(model)
    weights = {CUSTOM: MATRICES_BYTES, DREAMBOOTH: RANK_BYTES * (recipe.rank or 0)}.get(recipe.kind, 1e5)
    pictures = len(sitting.prompts.references) or recipe.anchor_images
    return (weights if full else 1e6) + pictures * 3.2 * size[0] * size[1]
