"""What a unit's files tell of how it was made: its manifest, its pictures' text chunks, its masks."""

import json
import time

import torch

from svdstory.jobs.study.code import identity, versions
from svdstory.jobs.study.command_line import command_of
from svdstory.jobs.study.plan import Cell, Plan
from svdstory.jobs.study.store import Store
from svdstory.jobs.study.tuned import SHELF
from svdstory.jobs.study.unit_keys import content
from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.generation import Generated
from svdstory.pipeline.models.device import device_name
from svdstory.pipeline.models.load import Model
from svdstory.pipeline.sampling.sampler import Sample


def manifest_of(
    plan: Plan,
    cell: Cell,
    store: Store,
    model: Model,
    made: Generated,
    worn: PromptSet | None,
    micro_batch: int | None,
    began: float,
) -> dict:
    """A unit's manifest, without its files, which the store adds. worn: as make_unit has it; began: in Unix time."""
    prompts, method = plan.sets[cell.set], plan.methods[cell.method]
    used = method.references_used(len(prompts.references))
    told = {
        "set": {"name": cell.set, **prompts.with_references(used).content()},
        "prompts": prompts.prompts,
        "method": {"name": cell.method, **method.with_references(used).switches()},
        "seed": cell.seed,
        "setting": {
            **content(plan.sampling),
            "size": list(plan.size),
            "exact_filter": plan.exact_filter,
        },
        "model": {"name": plan.model.name, **plan.model.content(), "note": plan.model.note},
        **subject_of(plan, cell, store, worn),
        "images": len(made.images),
        "counters": made.counters,
        "times": {"began": began, "ended": time.time()},
        "device": device_name(model.device),
        "micro_batch": micro_batch,
        **{key: value for key in ("offload", "compile") if (value := getattr(plan, key))},
        "versions": versions(),
        "code": identity(),
    }
    return told | told_of_references(prompts, method)


def told_of_references(prompts: PromptSet, method: Method) -> dict:
    """What a manifest says of the set's pictures, where the method uses some: which were its anchors, on which path."""
    used = method.references_used(len(prompts.references))
    if not used:
        return {}
    told = [
        {**reference.content(), "pixels": reference.pixels, "prompt": prompt, "anchor": r < used}
        for r, (reference, prompt) in enumerate(zip(prompts.references, prompts.reference_prompts))
    ]
    return {"references": told, "inversion": {"path": method.inversion, "renoise": method.renoise}}


def subject_of(plan: Plan, cell: Cell, store: Store, worn: PromptSet | None) -> dict:
    """What a unit's manifest says of its subject: which one, by which weights, and the prompts as they were encoded."""
    if not plan.methods[cell.method].tuning:
        return {}
    told, key = {"prompts_encoded": worn.prompts}, plan.subject_of.get(cell.key)
    if key:
        files = Store(store.run, SHELF).manifest(key)["files"]
        told |= {
            "subject": key,
            "subject_sha256": {n: f["sha256"] for n, f in files.items() if n.endswith(".safetensors")},
        }
    return told


def text_chunks(plan: Plan, cell: Cell, image: int) -> dict[str, str]:
    """What a generated image is expected to tell of itself, in its PNG text chunks.

    `parameters` names no `Seed:`, by which other programs would draw another picture: noise is keyed by hash here.
    """
    prompt = plan.sets[cell.set].prompts[image]
    width, height = plan.size
    return {
        "prompt": prompt,
        "seed": str(cell.seed),
        "method": cell.method,
        "set": cell.set,
        "unit": cell.key,
        "image": str(image),
        "model": plan.model.name,
        "note": plan.model.note,
        "parameters": f"{prompt}\nSteps: {plan.steps}, Sampler: {plan.scheduler}, CFG scale: {plan.guidance}, "
        f"Size: {width}x{height}, Model: {plan.model.name}, Method: {cell.method}, svdstory seed: {cell.seed}, "
        f"svdstory command: {json.dumps(command_of(plan, cell), ensure_ascii=False)}",
    }


def masks_of(made: Generated) -> torch.Tensor | None:
    """(B, h, w) uint8: the subject masks that the sampler ended with, at half the latents' size; a function's own."""
    return made.masks if made.sample is None else _in_two_dimensions(made.sample.masks, made.sample)


def reference_masks_of(made: Generated) -> dict[str, torch.Tensor]:
    """reference_masks: (R, h, w) uint8, of the pictures that were anchors; nothing without any."""
    sample = made.sample
    if sample is None or sample.reference_masks is None or not len(sample.reference_masks):
        return {}
    return {"reference_masks": _in_two_dimensions(sample.reference_masks, sample)}


def _in_two_dimensions(masks: torch.Tensor, sample: Sample) -> torch.Tensor:
    rows, columns = (side // 2 for side in sample.latents.shape[-2:])
    return masks.unflatten(1, (rows, columns)).to("cpu", torch.uint8).contiguous()
