"""What a run holds: for each cell of its plan the images, or a hole and its cause; and the numbers scored so far."""

import json
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from .plan import Cell, Plan, plan_path, read_plan
from .store import Failure, Store

DONE, FAILED, MISSING, CORRUPT = "done", "failed", "missing", "corrupt"


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

    @property
    def hole(self) -> str:
        """What stands in the hole's place: its state and cause; empty where there is none."""
        return "" if self.state == DONE else ": ".join(part for part in (self.state, self.cause) if part)

    def damaged(self, cause: str) -> "Place":
        return replace(self, state=CORRUPT, cause=cause, pictures=())


@dataclass(frozen=True)
class Scores:
    """What one scorer said. values: unit key -> metric -> number; per unit only (no lists)."""

    scorer: str
    protocol: dict
    values: dict[str, dict[str, float]]

    @property
    def random(self) -> bool:
        """Whether its weights are random, so that the numbers mean nothing."""
        return "random" in str(self.protocol.get("weights", "")).lower()


@dataclass(frozen=True)
class Study:
    """A run, read once: its plan, its places in the plan's order, its scores."""

    run: Path
    plan: Plan
    places: tuple[Place, ...]
    scores: tuple[Scores, ...]

    @cached_property
    def by_set(self) -> dict[str, list[Place]]:
        found: dict[str, list[Place]] = {name: [] for name in self.plan.sets}
        for place in self.places:
            found[place.cell.set].append(place)
        return found

    @property
    def notes(self) -> list[str]:
        """What a reader must know before believing anything: shown on every grid and table."""
        notes = [f"{self.plan.model.name}: {self.plan.model.note}"] if self.plan.model.note else []
        return notes + [f"{s.scorer}: random weights - these numbers mean nothing" for s in self.scores if s.random]

    def counts(self) -> dict[str, Counter]:
        """State -> cause -> number of cells. Causes of damage are counted together."""
        found = {state: Counter() for state in (DONE, FAILED, MISSING, CORRUPT)}
        for place in self.places:
            found[place.state][place.cause if place.state == FAILED else ""] += 1
        return found

    def replaced(self, damage: dict[str, str]) -> "Study":
        """With the units of `damage` (key -> cause) as holes."""
        return replace(self, places=tuple(p.damaged(damage[p.cell.key]) if p.cell.key in damage else p
                                          for p in self.places))


def read_study(run: Path) -> Study:
    """Read the run's last plan, its units' manifests and its scores. Raises InputError where there is no plan."""
    plan, store = read_plan(plan_path(run)), Store(run)
    failures = store.failures()
    with ThreadPoolExecutor(8) as pool:             # a network file system answers many questions at once
        units = dict(zip(plan.units, pool.map(lambda key: read_unit(store, key, failures.get(key, [])), plan.units)))
    places = tuple(replace(units[cell.key], cell=cell) for cell in plan.cells)
    return Study(run, plan, places, tuple(read_scores(run, units)))


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
        return Place(nowhere, DONE, "", pictures, seconds, manifest.get("device", ""))
    if problem == "missing" and failures:
        return Place(nowhere, FAILED, failures[-1].cause)
    return Place(nowhere, MISSING) if problem == "missing" else Place(nowhere, CORRUPT, problem)


def read_scores(run: Path, units: dict[str, Place]) -> list[Scores]:
    """RUN/scores/<scorer>/<key>.json, for the plan's units. Unreadable ones and those of other images don't count."""
    found = []
    for folder in sorted(p for p in (run / "scores").glob("*") if p.is_dir()):
        names = sorted(e.name for e in os.scandir(folder) if e.name.endswith(".json") and e.name[:-5] in units)
        read = {name[:-5]: content for name in names if (content := _read_json(folder / name))
                and list(content.get("images", {}).values()) == [p.sha256 for p in units[name[:-5]].pictures]}
        if read:
            protocols = [content.get("protocol", {}) for content in read.values()]
            protocol = next((p for p in protocols if "random" in str(p.get("weights")).lower()), protocols[0])
            values = {key: _numbers(content.get("values", {})) for key, content in read.items()}
            found.append(Scores(protocol.get("scorer", folder.name), protocol, values))
    return found


def _numbers(values: dict) -> dict[str, float]:
    return {name: float(v) for name, v in sorted(values.items()) if isinstance(v, (int, float))}


def _read_json(path: Path) -> dict | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


Progress = Callable[[str], None]
