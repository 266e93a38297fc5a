"""A worker's tuned subjects: taken from the run or made, and kept on the model while the next unit wants the same."""

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file

from svdstory.jobs.node.causes import SubjectFailed, cause_of, record
from svdstory.jobs.study.code import identity, versions
from svdstory.jobs.study.plan import Cell, Plan
from svdstory.jobs.study.png import png
from svdstory.jobs.study.reference_files import placed
from svdstory.jobs.study.store import Attempt, Store
from svdstory.jobs.study.tuned import SHELF, Sitting
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.references import read_picture
from svdstory.pipeline.config.tuning import CUSTOM, SubjectFile, first_word, worded
from svdstory.pipeline.models.device import device_name
from svdstory.pipeline.models.load import Model
from svdstory.pipeline.models.subject_files import made_by
from svdstory.pipeline.personal.class_images import anchor_pictures, anchor_settings, class_examples
from svdstory.pipeline.personal.examples import Examples, training_prompts
from svdstory.pipeline.personal.personalised import personalised
from svdstory.pipeline.personal.training import Checkpoints, Interrupted, State, tune

CHECKPOINT_S = 600.0  # of tuning; Custom Diffusion's state is 4 GB, kept only when the worker is asked to stop


class Wardrobe:
    """What the model of one worker wears. Makers of one subject may be several: the second discards its own."""

    def __init__(self, plan: Plan, run: Path, attempt: Attempt, stop: Callable[[], bool]):
        self.plan, self.attempt, self.stop = plan, attempt, stop
        self.run, self.store, self.tuning = run, Store(run, SHELF), run / "tuning"
        self.failed: dict[str, str] = {}  # subject -> cause: not tried again by this worker
        self._worn: tuple | None = None
        self._on = ExitStack()

    def put_on(self, model: Model, cell: Cell) -> PromptSet:
        """The unit's subject onto the model, made where the run has none; the set as it is to be encoded.

        Raises SubjectFailed; Interrupted where the worker is asked to stop meanwhile.
        """
        prompts, method = placed(self.plan.sets[cell.set], self.run), self.plan.methods[cell.method]
        if method.tuning is None:
            self.take_off()
            return prompts
        sitting = self.plan.sittings.get(cell.key)
        files, initial = method.tuning, first_word(prompts)
        if sitting:
            files = self.files_of(model, sitting)
        wanted = files, initial, id(model)
        if self._worn != wanted:
            self.take_off()
            self._on.enter_context(personalised(model, files, initial))
            self._worn = wanted
        return worded(prompts, method.words())

    def take_off(self) -> None:
        """The model as it was."""
        self._worn = None
        self._on.close()

    def files_of(self, model: Model, sitting: Sitting) -> tuple[SubjectFile, ...]:
        """The subject's files. Raises SubjectFailed and Interrupted."""
        if sitting.key in self.failed:
            raise SubjectFailed(self.failed[sitting.key])
        if not self.store.is_finished(sitting.key):
            self.take_off()
            began = time.time()
            try:
                self.make(model, sitting)
            except Interrupted:
                raise
            except Exception as error:
                cause = self.failed[sitting.key] = cause_of(error)
                record(self.store, sitting.key, cause, self.attempt)
                print(f"subject {sitting.key}: {cause} after {time.time() - began:.1f} s", flush=True)
                raise SubjectFailed(cause) from error
            print(f"subject {sitting.key}: {sitting.recipe.kind}, done in {time.time() - began:.1f} s", flush=True)
        return made_by(sitting.recipe, self.store.folder(sitting.key))

    def make(self, model: Model, sitting: Sitting) -> None:
        """Tune the subject and publish it."""
        began, recipe, prompts = time.time(), sitting.recipe, sitting.prompts
        if model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(model.device)
        pictures, settings = self.pictures(model, sitting)
        taught = training_prompts(worded(prompts, recipe.words()), settings)
        examples = [Examples.of(model, pictures, taught)]
        examples += class_examples(model, prompts, recipe, sitting.key, self.plan.size)
        states = States(self.tuning / sitting.key, self.attempt)
        start = states.newest()
        checkpoints = Checkpoints(
            start, states.keep, float("inf") if recipe.kind == CUSTOM else CHECKPOINT_S, self.stop
        )
        made = tune(model, examples, recipe, sitting.key, initial=first_word(prompts), checkpoints=checkpoints)
        files = {name: save(tensors) for name, tensors in made.files.items()}
        files |= {f"{i}.png": png(picture, {"prompt": text}) for i, (picture, text) in enumerate(zip(pictures, taught))}
        manifest = {
            "tuning": recipe.model_dump(exclude_none=True),
            "style": prompts.style,
            "subject": prompts.subject,
            "concept": list(prompts.concept),
            "prompts": list(taught),
            "pictures": [one.content() for one in prompts.references] or "drawn as anchors",
            "seed": sitting.seed,
            "model": {"name": self.plan.model.name, **self.plan.model.content(), "note": self.plan.model.note},
            "size": list(self.plan.size),
            "losses": list(made.losses),
            "skipped": made.skipped,
            "parameters": made.parameters,
            "resumed_at": int(start["counts"][0]) if start else 0,
            "times": {"began": began, "ended": time.time()},
            "peak_bytes": torch.cuda.max_memory_allocated(model.device) if model.device.type == "cuda" else None,
            "device": device_name(model.device),
            "versions": versions(),
            "code": identity(),
        }
        self.store.publish(sitting.key, files, manifest, self.attempt)
        states.remove()

    def pictures(self, model: Model, sitting: Sitting) -> tuple[list[Image.Image], list[str]]:
        """The pictures that the subject is learned from, and what each is set in."""
        prompts = placed(sitting.prompts, self.run)
        if prompts.references:
            read = [read_picture(reference, self.plan.size) for reference in prompts.references]
            return read, [reference.setting for reference in prompts.references]
        drawn = anchor_pictures(model, prompts, sitting.recipe, sitting.seed, **self.plan.sampling)
        return drawn, list(anchor_settings(prompts, sitting.recipe))


class States:
    """Where an interrupted tuning stands: RUN/tuning/<key>/<update>.safetensors, written aside and renamed."""

    def __init__(self, folder: Path, attempt: Attempt):
        self.folder, self.attempt = folder, attempt

    def newest(self) -> State | None:
        """The newest that reads."""
        for path in self._files():
            try:
                return load_file(path)
            except (SafetensorError, OSError):
                continue
        return None

    def keep(self, update: int, state: State) -> None:
        """Write one, and remove the older ones."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path, older = self.folder / f"{update:06d}.safetensors", self._files()
        partial = self.folder / f".{path.name}.{self.attempt}"
        save_file(state, partial)
        partial.rename(path)
        for one in older:
            if one != path:
                one.unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        return sorted((p for p in self.folder.glob("*.safetensors") if p.stem.isdigit()), reverse=True)
