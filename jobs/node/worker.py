"""The worker: loads the model once and works through units, each published before the next."""

import gc
import io
import json
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata

import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save

from svdstory.jobs.node.subject_making import SubjectFailed, Wardrobe
from svdstory.jobs.study.code import identity
from svdstory.jobs.study.command_line import command_of
from svdstory.jobs.study.elsewhere import MISSING
from svdstory.jobs.study.plan import Cell, Plan, content
from svdstory.jobs.study.reference_files import placed
from svdstory.jobs.study.store import Attempt, Store
from svdstory.jobs.study.tuned import SHELF
from svdstory.pipeline.config.methods import Method, in_rows
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.decoding import NotFinite
from svdstory.pipeline.generation import Generated, generate
from svdstory.pipeline.models.device import device_name, fitting
from svdstory.pipeline.models.load import Model, load_model
from svdstory.pipeline.personal.training import Interrupted
from svdstory.pipeline.sampling.sampler import Sample

FATAL = ("disk full", "bad node")  # causes after which the next unit would fail too
# PyTorch's own error has a class; CUDA, its libraries (cuBLAS, cuSOLVER, cuDNN) and the CPU's allocator have words
OUT_OF_MEMORY = re.compile("out of memory|not enough memory|cannot allocate memory|ALLOC(ATION)?_FAILED", re.IGNORECASE)


@dataclass
class Outcome:
    """What a worker did: keys of units that it made, found finished, or failed on (with cause); and why it stopped."""

    made: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    stopped: str = ""


def work(
    plan: Plan,
    store: Store,
    keys: Iterable[str],
    *,
    device: str | None = None,
    model: Model | None = None,
    micro_batch: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[str, str, float], None] = lambda key, state, seconds: None,
) -> Outcome:
    """Make the units `keys` that are not finished. A unit that fails is recorded, and the next one is made.

    `model`: the plan's, where it is loaded already; else it is, onto `device`, by the first unit that is missing.

    `stop` is asked before each unit and after each denoising step; when it says so, the unit at hand is abandoned.
    `report` is told of each unit: (key, "done" | "found" | its failure's cause, seconds). Raises InputError for a
    model that cannot be loaded here.
    """
    outcome, attempt = Outcome(), Attempt.here()
    wardrobe = Wardrobe(plan, store.run, attempt, stop, cause_of, record, versions)
    try:
        for key in keys:
            if stop():
                outcome.stopped = "asked to stop"
                break
            if store.is_finished(key):
                outcome.found.append(key)
                report(key, "found", 0.0)
                continue
            if key in plan.brought:  # recorded when it was looked for (study/elsewhere.py)
                outcome.failed[key] = MISSING
                report(key, MISSING, 0.0)
                continue
            if model is None or model.spoiled:
                wardrobe.take_off()
                model = None  # the old one's memory, before the new one's
                model = load_model(plan.model, device, offload=plan.offload, compiled=plan.compile)
            began = time.time()
            try:
                worn = wardrobe.put_on(model, plan.units[key])
                began = time.time()
                make_unit_that_fits(plan, plan.units[key], store, model, attempt, micro_batch, stop, worn)
            except (Stopped, Interrupted):
                outcome.stopped = "asked to stop"
                break
            except Exception as error:  # recorded with its cause; the worker goes on
                cause = cause_of(error)
                outcome.failed[key] = cause
                report(key, cause, time.time() - began)
                record(store, key, cause, attempt)
                if cause in FATAL or (isinstance(error, SubjectFailed) and error.cause in FATAL):
                    outcome.stopped = getattr(error, "cause", cause)
                    break
                continue
            outcome.made.append(key)
            report(key, "done", time.time() - began)
    finally:
        wardrobe.take_off()
    return outcome


class Stopped(Exception):
    """The worker was asked to stop in the middle of a unit."""


def make_unit_that_fits(
    plan: Plan, cell: Cell, store: Store, model: Model, attempt: Attempt, micro_batch: int | None, stop, worn=None
) -> None:
    """Make the unit; where the card has too little memory for it, again at once with half the micro-batch.

    The images do not change by that. Raises what the last try raised, of one image at a time.
    """
    prompts, method = plan.sets[cell.set], plan.methods[cell.method]
    images = len(prompts.settings)
    rows = in_rows(method, images, len(prompts.references))
    size = micro_batch or fitting(plan.model, *rows, plan.size, model.device, plan.offload)
    while True:
        try:
            return make_unit(plan, cell, store, model, attempt, size, stop, worn)
        except Exception as error:
            size = min(size or images, images) // 2
            if size < 1 or cause_of(error) != "out of memory" or method.function:
                raise
            print(f"{cell.key}: out of memory; again with {size} images at once", flush=True)
        if torch.cuda.is_available():  # after the handler: the error's traceback held the tensors
            torch.cuda.empty_cache()


def make_unit(
    plan: Plan,
    cell: Cell,
    store: Store,
    model: Model,
    attempt: Attempt,
    micro_batch: int | None,
    stop: Callable[[], bool] = lambda: False,
    worn: PromptSet | None = None,
) -> None:
    """Sample one unit and publish it. worn: its set in the words of the subject that the model wears, where it does."""

    def on_step(step) -> None:
        if stop():
            raise Stopped

    began = time.time()
    prompts, method = placed(plan.sets[cell.set], store.run), plan.methods[cell.method]
    used = method.references_used(len(prompts.references))
    made = generate(
        model,
        worn or prompts,
        method,
        seed=cell.seed,
        exact_filter=plan.exact_filter,
        **plan.sampling,
        on_step=on_step,
        micro_batch=micro_batch,
    )
    files = {f"{i}.png": png(image, text_chunks(plan, cell, i)) for i, image in enumerate(made.images)}
    masks = masks_of(made)
    if masks is not None:
        files["tensors.safetensors"] = save({"masks": masks, **reference_masks_of(made)})
    manifest = {
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
    store.publish(cell.key, files, manifest | told_of_references(prompts, method), attempt)


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


def png(image: Image.Image, chunks: dict[str, str]) -> bytes:
    """PNG bytes with international text chunks; the same image and chunks give the same bytes."""
    info = PngImagePlugin.PngInfo()
    for key, text in chunks.items():
        info.add_itxt(key, text)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info, compress_level=6)
    return buffer.getvalue()


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


def free_memory() -> None:
    """Give back what ended work held, on the card too: a model that nobody refers to any more."""
    gc.collect()  # pipelines hold references in circles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def cause_of(error: BaseException) -> str:
    """The failure's cause, in the store's words."""
    import errno

    if isinstance(error, SubjectFailed):
        return str(error)
    if isinstance(error, (NotFinite, FloatingPointError)):  # the latter is the spectral filter's
        return "not finite"
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, (RuntimeError, OSError)) and OUT_OF_MEMORY.search(str(error))
    ):
        return "out of memory"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return "disk full"
    if isinstance(error, RuntimeError) and "CUDA error" in str(error):
        return "bad node"
    return "bug"


def record(store: Store, key: str, cause: str, attempt: Attempt) -> None:
    try:
        store.record_failure(key, cause, traceback.format_exc(), attempt)
    except OSError as error:  # a full disk takes no record either: say it where the log goes
        print(f"{key}: failed ({cause}), and its record could not be written: {error}", file=sys.stderr)


@lru_cache
def versions() -> dict[str, str]:
    """Versions of what computes pixels."""
    names = ("svdstory", "torch", "diffusers", "transformers", "safetensors", "pillow")
    return {name: metadata.version(name) for name in names} | {"python": sys.version.split()[0]}
