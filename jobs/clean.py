"""Remove what nothing reads any more. What is finished, and what a live job uses, is never touched."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from svdstory.jobs import ledger, scheduler
from svdstory.jobs.store import Store


@dataclass(frozen=True)
class Litter:
    """Some paths of one sort that may go, and why."""

    why: str
    paths: list[Path]

    @property
    def files(self) -> int:
        inside = sum(len(names) for path in self.paths for _, _, names in os.walk(path))
        return inside + sum(path.is_file() for path in self.paths)


def litter(run: Path) -> list[Litter]:
    """What may be removed from a run. Raises SlurmError where the controller does not say which jobs live.

    Run it from the machine that ran `svdstory run`, if any: its processes are known to be dead or alive there only.
    """
    known, store = ledger.submissions(run), Store(run)
    elements = scheduler.queue(names=[array.name for submission in known for array in submission.arrays])
    live = {element.task for element in elements if element.live}
    live_jobs = {element.job for element in elements if element.live}
    idle = [submission for submission in known if not live_jobs & set(submission.jobs)]
    codes = {s.intent["code"] for s in known if s not in idle}
    found = [
        Litter("drafts of units whose attempt is dead", _dead_drafts(run, live)),
        Litter("damaged units that were set aside", _entries(run / "corrupt")),
        Litter("records of failures of units that are finished now", _overcome(run, store)),
        Litter("submitit's pickles of jobs that have ended", [p for s in idle for p in s.slurm_folder.glob("*.pkl")]),
        Litter(
            "copies of the code that no queued job runs", [p for p in _entries(run / "code") if p.name not in codes]
        ),
    ]
    return [sort for sort in found if sort.paths]


def remove(sorts: list[Litter]) -> None:
    """Remove it all. What has gone already is passed over."""
    for path in (path for sort in sorts for path in sort.paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _dead_drafts(run: Path, live: set[str]) -> list[Path]:
    """Folders `tmp/<key>.<job>-r<restart>-<host>-<pid>` whose job is not live; local processes are asked by pid."""
    dead = []
    for path in _entries(run / "tmp"):
        job = path.name.partition(".")[2].split("-")[0]
        pid = path.name.rpartition("-")[2]
        local = job == "local"
        if (local and not (pid.isdigit() and os.path.exists(f"/proc/{pid}"))) or (not local and job not in live):
            dead.append(path)
    return dead


def _overcome(run: Path, store: Store) -> list[Path]:
    present = store.present()
    return [path for path in _entries(run / "failures") if path.name.split(".")[0] in present]
