"""The worker: loads the model once and works through units, each published before the next."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from safetensors.torch import save

from svdstory.jobs.node.causes import FATAL, SubjectFailed, cause_of, free_memory, record
from svdstory.jobs.node.manifest import manifest_of, masks_of, reference_masks_of, text_chunks
from svdstory.jobs.node.subject_making import Wardrobe
from svdstory.jobs.study.elsewhere import MISSING
from svdstory.jobs.study.plan import Cell, Plan
from svdstory.jobs.study.png import png
from svdstory.jobs.study.reference_files import placed
from svdstory.jobs.study.store import Attempt, Store
from svdstory.pipeline.config.methods import in_rows
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.generation import generate
from svdstory.pipeline.models.device import fitting
from svdstory.pipeline.models.load import Model, load_model
from svdstory.pipeline.personal.training import Interrupted


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
    wardrobe = Wardrobe(plan, store.run, attempt, stop)
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
                deeper = error.cause if isinstance(error, SubjectFailed) else cause
                if deeper in FATAL:
                    outcome.stopped = deeper
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
        free_memory()  # after the handler: the error's traceback held the tensors


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
    store.publish(cell.key, files, manifest_of(plan, cell, store, model, made, worn, micro_batch, began), attempt)
