"""What a run holds: for each cell of its plan the images, or a hole and its cause; and the numbers."""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from svdstory.jobs.report.fonts import lacking
from svdstory.jobs.report.measurements import Measured, read_measurements, relative_to_plain
from svdstory.jobs.report.statistics import Measurement
from svdstory.jobs.study.elsewhere import DEVICE as ELSEWHERE
from svdstory.jobs.study.elsewhere import MISSING as PICTURES_MISSING
from svdstory.jobs.study.plan import Cell, Plan, plan_path, read_plan
from svdstory.jobs.study.scores import Scores, read_scores
from svdstory.jobs.study.store import Failure, Store
from svdstory.pipeline.metrics.names import NAMES

DONE, FAILED, MISSING, CORRUPT = "done", "failed", "missing", "corrupt"
MADE_BY = {"code": "code", "torch": "versions of torch", "diffusers": "versions of diffusers", "device": "devices"}


@dataclass(frozen=True)
class Picture:
    """One image of a finished unit, where it lies and what its manifest says its content is."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Place:
    """One cell of the plan and what fills it. cause: why it is a hole, empty where it is done."""

    cell: Cell
    state: str
    cause: str = ""
    pictures: tuple[Picture, ...] = ()
    seconds: float | None = None
    device: str = ""
    code: str = ""  # what made it: the code's hash and its revision
    torch: str = ""
    diffusers: str = ""
    lacking: str = ""  # of pictures made elsewhere: which are not there, a line each

    @property
    def hole(self) -> str:
        """What stands in the hole's place: its state and cause; empty where there is none."""
        return "" if self.state == DONE else ": ".join(part for part in (self.state, self.cause) if part)

    def damaged(self, cause: str) -> "Place":
        return replace(self, state=CORRUPT, cause=cause, pictures=())


@dataclass(frozen=True)
class Study:
    """A run, read once: its plan, its places in the plan's order, its measurements."""

    run: Path
    plan: Plan
    places: tuple[Place, ...]
    measured: Measured
    published: str = ""  # the paper's table that is to stand beside it (published.py)

    @cached_property
    def by_set(self) -> dict[str, list[Place]]:
        found: dict[str, list[Place]] = {name: [] for name in self.plan.sets}
        for place in self.places:
            found[place.cell.set].append(place)
        return found

    @cached_property
    def numbers(self) -> dict[str, dict[tuple[str, str, int], Measurement]]:
        """Metric -> (set, method, seed) -> its measurement."""
        found: dict[str, dict[tuple[str, str, int], Measurement]] = {}
        for m in self.measured.cells:
            found.setdefault(m.metric, {})[m.set, m.method, m.seed] = m
        return found

    @property
    def notes(self) -> list[str]:
        """What a reader must know before believing the images."""
        model = f"{self.plan.model.name}: {self.plan.model.note}" if self.plan.model.note else ""
        return [note for note in (model, lacking(self.plan), *self.elsewhere) if note]

    @cached_property
    def elsewhere(self) -> list[str]:
        """Which pictures this run's model did not make, and which of those are not there."""
        notes = []
        for name in [name for name, method in self.plan.methods.items() if method.pictures]:
            holes = [place.lacking for place in self.places if place.cell.method == name and place.lacking]
            lines = [line for hole in holes for line in hole.splitlines()]
            more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
            lost = f"; {len(holes)} of its cells are holes: {lines[0]}{more}" if lines else ""
            notes.append(f"{name}: pictures of another model or tool, imported as they are{lost}")
        return notes

    @property
    def number_notes(self) -> list[str]:
        """What a reader must know before believing a number: on every table and plot."""
        random = {p["scorer"] for p in self.measured.protocols.values() if is_random(p)}
        meaningless = [f"{scorer}: random weights - its numbers mean nothing" for scorer in sorted(random)]
        return self.notes + meaningless + self.mixtures

    @cached_property
    def mixtures(self) -> list[str]:
        """What is not the same for all units: then a difference between two may be the code's or the device's."""
        here = [place for place in self.places if place.device != ELSEWHERE]
        done = {place.cell.key: place for place in here if place.state == DONE}
        notes = []
        for what, words in MADE_BY.items():
            kinds = Counter(getattr(place, what) for place in done.values())
            if len(kinds) > 1:
                told = ", ".join(f"{kind or 'unknown'} ({units} units)" for kind, units in kinds.most_common())
                notes.append(f"units of this run were made by different {words}: {told}")
        return notes

    def counts(self) -> dict[str, Counter]:
        """State -> cause -> number of cells. Causes of damage are counted together."""
        found = {state: Counter() for state in (DONE, FAILED, MISSING, CORRUPT)}
        for place in self.places:
            found[place.state][place.cause if place.state == FAILED else ""] += 1
        return found

    def of_sets(self, names: Iterable[str]) -> "Study":
        """The part of it that these prompt sets are."""
        sets = {name: self.plan.sets[name] for name in names}
        fields = {name: getattr(self.plan, name) for name in Plan.model_fields}
        cells = tuple(cell for cell in self.plan.cells if cell.set in sets)
        plan = Plan(**{**fields, "sets": sets, "cells": cells})
        measured = replace(self.measured, cells=[m for m in self.measured.cells if m.set in sets])
        places = tuple(p for p in self.places if p.cell.set in sets)
        return Study(self.run, plan, places, measured, self.published)

    def damaged(self, damage: dict[str, str]) -> "Study":
        """With the units of `damage` (key -> cause) as holes, without numbers."""
        if not damage:
            return self
        places = tuple(p.damaged(damage[p.cell.key]) if p.cell.key in damage else p for p in self.places)
        holes = {(p.cell.set, p.cell.method, p.cell.seed): p.hole for p in places if p.cell.key in damage}
        cells = [
            replace(m, value=None, cause=holes[m.set, m.method, m.seed]) if (m.set, m.method, m.seed) in holes else m
            for m in self.measured.cells
        ]
        return Study(self.run, self.plan, places, replace(self.measured, cells=cells), self.published)


def is_random(protocol: dict) -> bool:
    return "random" in str(protocol.get("weights", "")).lower()


def read_study(run: Path, plan_file: Path | None = None) -> Study:
    """Read the run's last plan, or an earlier one of it, its units' manifests and its scores.

    Raises InputError where there is no plan.
    """
    plan, store = read_plan(plan_file or plan_path(run)), Store(run)
    failures = store.failures()
    with ThreadPoolExecutor(8) as pool:  # a network file system answers many questions at once
        units = dict(zip(plan.units, pool.map(lambda key: read_unit(store, key, failures.get(key, [])), plan.units)))
    places = tuple(replace(units[cell.key], cell=cell) for cell in plan.cells)
    images = {
        key: {p.path.name: p.sha256 for p in unit.pictures} if unit.state == DONE else None
        for key, unit in units.items()
    }
    scores = read_scores(run)
    measured = read_measurements(plan, store, scorers_of(plan, scores), images, failures, scores)
    return Study(run, plan, places, relative_to_plain(measured) if "sdxl" in plan.methods else measured)


def scorers_of(plan: Plan, scores: Scores) -> list[str]:
    """The plan's scorers, and the others that have scored this run."""
    known = [*NAMES, *(f"{name}+flat" for name in NAMES)]
    return list(dict.fromkeys([*plan.scorers, *(name for name in known if name in scores.scorers)]))


def read_unit(store: Store, key: str, failures: list[Failure]) -> Place:
    """The place of one unit, by its manifest and its files' sizes (contents are checked when they are read)."""
    nowhere = Cell(set="", method="", seed=0, key=key)
    problem = store.problem(key)
    if problem is None:
        manifest, folder = store.manifest(key), store.folder(key)
        files = manifest["files"]
        names = sorted((n for n in files if n.endswith(".png")), key=lambda n: (len(n), n))
        times = manifest.get("times", {})
        seconds = times["ended"] - times["began"] if {"began", "ended"} <= set(times) else None
        pictures = tuple(Picture(folder / name, files[name]["sha256"]) for name in names)
        code, versions = manifest.get("code", {}), manifest.get("versions", {})
        return Place(
            nowhere,
            DONE,
            "",
            pictures,
            seconds,
            manifest.get("device", ""),
            code if isinstance(code, str) else f"{code.get('hash', '')} {code.get('revision', '')}".strip(),
            versions.get("torch", ""),
            versions.get("diffusers", ""),
        )
    if problem == "missing" and failures:
        last = failures[-1]
        return Place(nowhere, FAILED, last.cause, lacking=last.message if last.cause == PICTURES_MISSING else "")
    return Place(nowhere, MISSING) if problem == "missing" else Place(nowhere, CORRUPT, problem)
