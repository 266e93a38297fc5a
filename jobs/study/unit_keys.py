"""What a unit's key depends on: everything that changes pixels, and nothing else."""

from svdstory.jobs.study.elsewhere import source_key, sources
from svdstory.jobs.study.tuned import sitting
from svdstory.pipeline.config.methods import TOLERANCE, Method
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.sizes import tiled
from svdstory.pipeline.config.strict import concerning, digest
from svdstory.pipeline.models.spec import ModelSpec

SCHEMA = 1  # of what a unit is; part of its key
KEY_DIGITS = 24  # of sha256's 64: 96 bits
OFF = {"scheduler_config": {}, "long_prompts": "error", "prompt_weights": False}


def content(sampling: dict) -> dict:
    """The same as a unit's key and its manifest hold it: without what is off, so that new keys leave old units."""
    said = {**sampling, "scheduler_config": sampling["scheduler_config"].changes()}
    tiles = {"vae_tiling": True} if tiled(*sampling["size"]) else {}
    return tiles | {key: value for key, value in said.items() if key not in OFF or value != OFF[key]}


def unit_key(prompts: PromptSet, method: Method, seed: int, model: ModelSpec, setting: dict, exact_filter: bool) -> str:
    """Hash of everything that changes pixels, and of nothing else."""
    filtered = {} if exact_filter or not method.filters() else {"filter_tolerance": TOLERANCE}
    used = method.references_used(len(prompts.references))
    learned = sitting(prompts, method, seed, model, setting, KEY_DIGITS)
    return digest(
        {
            "schema": SCHEMA,
            "set": prompts.with_references(used).content(),
            "method": method.with_references(used).switches(),
            "seed": seed,
            "model": model.content(),
            **setting,
            **filtered,
            **({"subject": learned.key} if learned else {}),
            "size": list(setting["size"]),
        }
    )[:KEY_DIGITS]


def picture_keys(sets: dict[str, PromptSet], methods: dict[str, Method], seeds: dict[str, tuple]) -> dict[tuple, str]:
    """(set, method, seed) -> the key of a unit of pictures made elsewhere: what they hold. Reads each of them."""
    with concerning("methods"):
        found = sources({name: m.pictures for name, m in methods.items() if m.pictures}, sets, seeds)
    return {at: source_key(files, sets[at[0]], at[2], SCHEMA)[:KEY_DIGITS] for at, files in found.items()}
