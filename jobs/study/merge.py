"""Runs that meet: the units, numbers and failures of several run folders in one, without a second copy of a file.

A unit's key says all that changes its pixels, so what two people or two clusters made of one study fits together. Files
are hard links where the file system gives them, else copies; the runs stay as they are.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from svdstory.jobs.study.plan import Plan, plan_path, read_plan
from svdstory.jobs.study.reference_files import placed
from svdstory.jobs.study.run_folder import prepare
from svdstory.jobs.study.store import MANIFEST, TAKEN, Attempt, Store
from svdstory.jobs.study.tuned import SHELF
from svdstory.pipeline.config.prompt_files import slug
from svdstory.pipeline.config.strict import InputError

SETTING = (
    "steps",
    "size",
    "guidance",
    "scheduler",
    "scheduler_config",
    "long_prompts",
    "prompt_weights",
    "exact_filter",
)
BESIDE = ("scores", "spectra", "failures")  # folders of files that never change and whose names no other run has


@dataclass(frozen=True)
class Merged:
    """What a merge did: the run folder, its plan, units that came, that were there, and that no run has."""

    run: Path
    plan: Plan
    came: int
    there: int
    missing: int


def merge(runs: list[Path], out: Path) -> Merged:
    """Join the runs in the folder `out`, which may be a merged run already: then what is new comes to it.

    Raises InputError for runs of different models or settings, and for fewer than two.
    """
    if len(runs) < 2:
        raise InputError(f"merge: got {len(runs)} run, expected two or more.")
    if out.resolve() in [run.resolve() for run in runs]:
        raise InputError(f"--out {out}: is one of the runs. Give a folder of its own: the runs stay as they are.")
    plans = {run: read_plan(plan_path(run)) for run in runs}
    plan = joined(plans)
    store = prepare(plan, out)
    before = store.finished(plan.units)
    came = [key for key in plan.units if key not in before and any(_bring(Store(run), store, key) for run in runs)]
    subjects = Store(out, SHELF)
    for run in runs:
        made = Store(run, SHELF)
        for key in made.present():
            if not subjects.is_finished(key):
                _bring(made, subjects, key)
        for path in _beside(run):
            _link(path, out / path.relative_to(run))
    return Merged(out, plan, len(came), len(before), len(plan.units) - len(before) - len(came))


def joined(plans: dict[Path, Plan]) -> Plan:
    """One plan of all cells. Sets and methods of one name that are not the same get their run's name before it."""
    first_run, first = next(iter(plans.items()))
    for run, plan in plans.items():
        ours, theirs = ({"model": p.model.content(), **{k: getattr(p, k) for k in SETTING}} for p in (first, plan))
        differing = [f"{key} {ours[key]} and {theirs[key]}" for key in ours if ours[key] != theirs[key]]
        if differing:
            raise InputError(
                f"{first_run} and {run}: {'; '.join(differing)}. Only runs of one model and one setting can be merged; "
                "svdstory compare sets two runs side by side."
            )
    sets, methods, cells = {}, {}, {}
    for run, plan in plans.items():
        names = {name: _free(name, sets, _content(one), run) for name, one in plan.sets.items()}
        called = {name: _free(name, methods, one, run) for name, one in plan.methods.items()}
        sets |= {
            names[name]: (_content(one), placed(one.model_copy(update={"name": names[name]}), run.resolve()))
            for name, one in plan.sets.items()
        }
        methods |= {called[name]: (one, one) for name, one in plan.methods.items()}
        for cell in plan.cells:
            place = names[cell.set], called[cell.method], cell.seed
            cells.setdefault(place, cell.model_copy(update={"set": place[0], "method": place[1]}))
    update = {
        "experiment": "+".join(dict.fromkeys(plan.experiment for plan in plans.values())),
        "about": "; ".join(dict.fromkeys(plan.about for plan in plans.values() if plan.about)),
        "scorers": tuple(dict.fromkeys(scorer for plan in plans.values() for scorer in plan.scorers)),
        "sets": {name: one for name, (_, one) in sets.items()},
        "methods": {name: one for name, (_, one) in methods.items()},
        "cells": tuple(cells.values()),
    }
    return first.model_copy(update=update)


def _content(prompts) -> tuple:
    """What makes two sets one in tables: the pixels, and the group."""
    return prompts.content(), prompts.group


def _free(name: str, taken: dict, content, run: Path) -> str:
    """The name, or with the run's before it where another content has it."""
    names = [name, f"{slug(run.name)}-{name}", *(f"{slug(run.name)}-{n}-{name}" for n in range(2, len(taken) + 3))]
    return next(one for one in names if one not in taken or taken[one][0] == content)


def _bring(source: Store, store: Store, key: str) -> bool:
    """Link a finished unit into the store, by one rename. False where `source` has none that is sound."""
    if not source.is_finished(key):
        return False
    draft = store.run / "tmp" / f"{key}.{Attempt.here()}"
    draft.mkdir(parents=True)
    try:
        for name in [*source.manifest(key)["files"], MANIFEST]:
            _link(source.folder(key) / name, draft / name)
        store.folder(key).parent.mkdir(parents=True, exist_ok=True)
        if store.folder(key).exists():  # and is damaged: a finished one is not brought
            store.set_aside(key)
        draft.rename(store.folder(key))
    except OSError as error:
        if error.errno not in TAKEN:  # else another merge was quicker
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return True


def _beside(run: Path) -> Iterator[Path]:
    """The run's files of numbers, spectra and failures; drafts are no such files."""
    for name in BESIDE:
        yield from (p for p in sorted((run / name).rglob("*")) if p.is_file() and not p.name.startswith("."))


def _link(path: Path, to: Path) -> None:
    """A hard link, or a copy where the file system gives none. What is there already stays."""
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, to)
    except FileExistsError:
        return
    except OSError:
        draft = to.with_name(f".{to.name}.{Attempt.here()}")
        shutil.copyfile(path, draft)
        draft.rename(to)
