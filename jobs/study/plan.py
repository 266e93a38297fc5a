"""The plan: every cell (prompt set × method × seed) of an experiment and the unit that fills it.

A plan is an immutable file, RUN/plans/0001-<hash>.json. A changed experiment adds the next number; the last one is
the run's plan. Workers are given the path of the one they work on.
"""

import json
import os
import re
from collections.abc import Iterable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

from svdstory.jobs.study.experiment import Experiment, own_switches, read_methods, read_prompt_sets
from svdstory.jobs.study.plan_checks import check_methods, check_references, check_sets, check_setting, find_font
from svdstory.jobs.study.process import Process
from svdstory.jobs.study.reference_files import copy_references
from svdstory.jobs.study.tuned import Sitting, resolved, sitting
from svdstory.jobs.study.unit_keys import KEY_DIGITS, OFF, SCHEMA, content, picture_keys, unit_key
from svdstory.pipeline.config.lora import Lora
from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.references import located
from svdstory.pipeline.config.schedulers import SchedulerConfig
from svdstory.pipeline.config.strict import InputError, Strict, Text, concerning, digest, parse
from svdstory.pipeline.models import lora_files
from svdstory.pipeline.models.memory import Offload
from svdstory.pipeline.models.spec import ModelSpec, resolve_model

MODEL_DEFAULTS = {"guidance", "scheduler", "scheduler_config", "tuning"}  # which the plan has resolved
SAMPLING = ("steps", "size", "guidance", "scheduler", *OFF)
LATER_OF_MODEL = ("loras", "vae", "vae_folder", "vae_identity", "one_encoder")
LATER = ("negative", "loras")  # keys that older plans don't have, of a plan and of its sets
LATER_OF_SET = (*LATER, "references", "anchor_settings")
LATER_OF_METHOD = ("inversion", "renoise")


class Cell(Strict):
    """One place of the study's table. Cells whose pixels are the same share a unit: the same key."""

    set: str
    method: str
    seed: int
    key: str


class Plan(Strict):
    """An experiment, resolved: all that changes pixels, and all that names it.

    file: the absolute path of an experiment that is not shipped, for commands that make a part of it again.
    """

    schema_version: int
    experiment: str
    file: str = ""
    about: str
    model: ModelSpec
    steps: int
    size: tuple[int, int]
    guidance: float
    scheduler: str
    scheduler_config: SchedulerConfig = SchedulerConfig()
    negative: Text = ""
    loras: tuple[Lora, ...] = ()
    long_prompts: Literal["error", "chunk"] = "error"
    prompt_weights: bool = False
    offload: Offload | None = None
    compile: bool = False
    exact_filter: bool = True  # plans from before there was a choice don't say
    scorers: tuple[str, ...]
    font: str | None = None  # the file that the report's pictures are lettered with
    sets: dict[str, PromptSet]
    methods: dict[str, Method]
    cells: tuple[Cell, ...]

    @cached_property
    def units(self) -> dict[str, Cell]:
        """Key -> the first cell that it fills, in the plan's order: the units of one set stand together."""
        units: dict[str, Cell] = {}
        for cell in self.cells:
            units.setdefault(cell.key, cell)
        return units

    @cached_property
    def sittings(self) -> dict[str, Sitting]:
        """Key of a unit -> the subject that is to be tuned for it, where its method tunes one."""
        found, setting = {}, content(self.sampling)
        for key, cell in self.units.items():
            method = self.methods[cell.method]
            if method.recipe():
                found[key] = sitting(self.sets[cell.set], method, cell.seed, self.model, setting, KEY_DIGITS)
        return found

    @cached_property
    def subject_of(self) -> dict[str, str]:
        """Key of a unit -> its subject's."""
        return {key: one.key for key, one in self.sittings.items()}

    @cached_property
    def brought(self) -> frozenset[str]:
        """Keys of the units of pictures made elsewhere: they come in before anything is queued, or not at all."""
        return frozenset(key for key, cell in self.units.items() if self.methods[cell.method].pictures)

    def only(self, keys: Iterable[str]) -> "Plan":
        """The part of the plan that makes these units, in their order: what a task needs to know."""
        cells = tuple(self.units[key] for key in keys)
        sets = {name: self.sets[name] for name in dict.fromkeys(cell.set for cell in cells)}
        methods = {name: self.methods[name] for name in dict.fromkeys(cell.method for cell in cells)}
        rest = {name: getattr(self, name) for name in Plan.model_fields}
        return Plan(**{**rest, "cells": cells, "sets": sets, "methods": methods})

    @property
    def sampling(self) -> dict:
        """What the pixels of every unit depend on beside its set, method, seed and model: `generate` takes it."""
        return {key: getattr(self, key) for key in SAMPLING}

    @property
    def sampler(self) -> str:
        """The scheduler in words: `euler, timestep_spacing trailing`."""
        changes = self.scheduler_config.changes().items()
        return ", ".join([self.scheduler, *(f"{key} {value}" for key, value in changes)])

    def hash(self) -> str:
        """12 hex digits; without what makes no cell another: notes, and where pictures lie."""
        unset = {key: True for key in ("font", "file", "offload", "compile", *LATER) if not getattr(self, key)}
        unset |= {key: True for key in OFF if key not in content(self.sampling)}
        sets = {
            name: {"note": True, "references": {"__all__": {"image"}}} | one.unset(LATER_OF_SET)
            for name, one in self.sets.items()
        }
        model = MODEL_DEFAULTS | {key for key in LATER_OF_MODEL if not getattr(self.model, key)}
        apart_of = {"pictures": {"folder"}, "tuning": True}  # the files that are brought may lie anywhere
        methods = {name: apart_of | one.unset(LATER_OF_METHOD) for name, one in self.methods.items()}
        apart = {"sets": sets, "model": model, "methods": methods, **unset}
        tuning = {name: one.switches()["tuning"] for name, one in self.methods.items() if one.tuning}
        return digest(self.model_dump(mode="json", exclude=apart) | ({"tuning": tuning} if tuning else {}))[:12]


def make_plan(
    name: str,
    experiment: Experiment,
    near: Path,
    dtype: str | None = None,
    *,
    like: str | None = None,
    sets: list[str] | None = None,
    methods: list[str] | None = None,
) -> Plan:
    """Resolve and check an experiment, or those `sets` and `methods` of it. Nothing is written.

    like: the model of models.yaml that the experiment's, a folder, is said to be.
    Raises InputError that lists everything that is wrong: prompts, methods, sizes, missing weights.
    """
    sets, methods = read_prompt_sets(experiment, near, sets), read_methods(experiment, near, methods)
    with concerning("model"):
        model = resolve_model(experiment.model, dtype, like, experiment.vae)
    sampling = chosen(experiment, model)
    setting = content(sampling)
    check_setting(setting, model)
    methods = resolved(methods, model, near, experiment.offload)
    own = lora_files.located(experiment.loras, near, model.text_width())
    sets = {name: completed(one, experiment.negative, own, near, model) for name, one in sets.items()}
    sets = with_pictures(sets, setting["size"])
    check_sets(sets, methods, model, sampling["long_prompts"] == "chunk", sampling["prompt_weights"])
    check_methods(sets, methods, setting["steps"], own_switches(experiment, near))
    check_references(sets, methods, setting["scheduler"], model)
    exact = experiment.exact_filter
    seeds = {s: experiment.seeds or sets[s].seeds for s in sets}
    brought = picture_keys(sets, methods, seeds)

    def key(s: str, m: str, seed: int) -> str:
        return brought.get((s, m, seed)) or unit_key(sets[s], methods[m], seed, model, setting, exact)

    cells = [Cell(set=s, method=m, seed=seed, key=key(s, m, seed)) for s in sets for m in methods for seed in seeds[s]]
    return Plan(
        schema_version=SCHEMA,
        experiment=name,
        about=experiment.about,
        model=model,
        **sampling,
        negative=experiment.negative,
        loras=own,
        offload=experiment.offload,
        compile=experiment.compile,
        exact_filter=exact,
        scorers=model.scorers if experiment.scorers is None else experiment.scorers,
        font=experiment.font and find_font(experiment.font, near),
        sets=sets,
        methods=methods,
        cells=tuple(cells),
    )


def chosen(experiment: Experiment, model: ModelSpec) -> dict:
    """What the experiment says of each key of `Plan.sampling`, and the model's own where it says nothing."""
    said = {key: getattr(experiment, key) for key in SAMPLING}
    if experiment.scheduler is not None and said["scheduler_config"] is None:
        said["scheduler_config"] = SchedulerConfig()  # the model's changes belong to the model's scheduler
    return {key: getattr(model, key) if value is None else value for key, value in said.items()}


def completed(prompts: PromptSet, negative: str, loras: tuple[Lora, ...], near: Path, model: ModelSpec) -> PromptSet:
    """The set with what the experiment says for all: its negative prompt where it has none, LoRA under its own."""
    own = lora_files.located(prompts.loras, near, model.text_width())
    return prompts.model_copy(update={"negative": prompts.negative or negative, "loras": (*loras, *own)})


def with_pictures(sets: dict[str, PromptSet], size: tuple[int, int]) -> dict[str, PromptSet]:
    """The sets with their reference pictures found and hashed. Raises one InputError for all that are wrong."""
    shown, wrong = dict(sets), []
    for name, prompts in sets.items():
        try:
            references, notes = located(prompts.references, size)
        except InputError as error:
            wrong += [f"prompt set {name}: {line}" for line in str(error).split("\n")]
            continue
        note = "; ".join(filter(None, [prompts.note, *notes]))
        shown[name] = prompts.model_copy(update={"references": references, "note": note}) if references else prompts
    if wrong:
        raise InputError("\n".join(wrong), key="references")
    return shown


def write_plan(plan: Plan, run: Path) -> Path:
    """Write the plan beside the run, its reference pictures first, and return its path. The same again is the same file.

    Two writers of the same plan end with one file; a reader never sees half of one.
    """
    folder = run / "plans"
    folder.mkdir(parents=True, exist_ok=True)
    copy_references(plan.sets.values(), run)
    while True:
        present = plans_of(run)
        if present and present[-1].stem.split("-")[1] == plan.hash():
            return present[-1]
        number = int(present[-1].name.split("-")[0]) + 1 if present else 1
        path = folder / f"{number:04d}-{plan.hash()}.json"
        partial = folder / f".{path.name}.{Process.here()}"
        with partial.open("w", encoding="utf-8") as file:
            json.dump(plan.model_dump(mode="json"), file, ensure_ascii=False, indent=1)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.rename(partial, path)
            return path
        finally:
            partial.unlink(missing_ok=True)


def plan_path(run: Path) -> Path:
    """The run's plan: the last of its plans. Raises InputError where there is none."""
    plans = plans_of(run)
    if not plans:
        raise InputError(f"{run}: no plan here (no plans/*.json). Is it a run folder? Make one with `svdstory run`.")
    return plans[-1]


def plans_of(run: Path) -> list[Path]:
    """All plans that the run has had, oldest first."""
    return sorted(path for path in (run / "plans").glob("*.json") if re.fullmatch(r"\d{4,}-[0-9a-f]{12}", path.stem))


@lru_cache(maxsize=1)
def unit_methods(path: Path) -> dict[str, str]:
    """Unit key -> its method, without checking the rest: quick. A plan's file never changes: it is read once.

    Raises InputError for a file that is no plan.
    """
    try:
        return {cell["key"]: cell["method"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as a plan: {error.__class__.__name__}: {error}") from None


def scorers_of_plan(path: Path) -> list[str]:
    """The plan's scorers, read as quickly."""
    return json.loads(path.read_text(encoding="utf-8"))["scorers"]


def is_run(run: Path) -> Path:
    """The folder, if it is a run: it holds a plan that reads. Raises InputError that says what it lacks."""
    unit_methods(plan_path(run))
    return run


def read_plan(path: Path) -> Plan:
    """Raises InputError for a plan that cannot be read."""
    try:
        return parse(Plan, json.loads(path.read_text(encoding="utf-8")), str(path))
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a plan: {error}") from None
