"""Remove what nothing reads any more. What is finished, and what a live job or launcher uses, is never touched."""

import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from svdstory.jobs.queue import holders, ledger, scheduler
from svdstory.jobs.queue.ledger import Submission
from svdstory.jobs.study.plan import is_run
from svdstory.jobs.study.scores import writer_of
from svdstory.jobs.study.store import KEY, Attempt, Store
from svdstory.jobs.study.tuned import SHELF

# The names that svdstory gives; whatever is called otherwise is somebody else's. `.gone.`: a clean was killed.
COPY = re.compile(r"(\.gone\.)?(\.?[0-9a-f]{12}|\.[0-9a-f]{12}\.[0-9a-f]{8})")
DAMAGED = re.compile(rf"(\.gone\.)?{KEY}\.\d+")
TUNING = re.compile(rf"(\.gone\.)?{KEY}")
RECORD = re.compile(rf"{KEY}\..+\.json")
EMBEDDINGS = re.compile(r"\.embeddings-.+\.safetensors\.tmp")
PICKLE = re.compile(r"\d+(_\d+)?_(submitted|\d+_result)\.pkl")


@dataclass(frozen=True)
class Litter:
    """Some paths of one sort that may go, and why. `wanted`: whether somebody has come since who uses one of them."""

    why: str
    paths: list[Path]
    wanted: Callable[[Path], bool] = lambda path: False

    @property
    def files(self) -> int:
        inside = sum(len(names) for path in self.paths for _, _, names in os.walk(path))
        return inside + sum(path.is_file() for path in self.paths)


def litter(run: Path) -> list[Litter]:
    """What may be removed from a run. Raises SlurmError where the controller does not say which jobs live, and
    InputError for a folder that is no run.

    Each place is listed before it is asked who uses it: what comes in between is not in the list.
    """
    copies = _named(is_run(run) / "code", COPY)
    known = ledger.submissions(run)
    used, ended = _used_and_ended(known)
    codes = {submission.intent["code"] for submission in used}

    def wanted_since(copy: Path) -> bool:
        """Whether a launcher that came after the look has announced that its jobs run it (it looks for it after that)."""
        return _code_of(copy) in {later.intent.get("code") for later in ledger.submissions(run)[len(known) :]}

    found = [
        Litter("drafts of units, failures and numbers whose attempt is dead", _dead_drafts(run)),
        Litter("drafts of embeddings that are older than a day", [p for p in _embeddings(run) if _is_old(p)]),
        Litter("damaged units that were set aside", _named(run / "corrupt", DAMAGED)),
        Litter("records of failures of units that are finished now", _overcome(run)),
        Litter("states of the tuning of subjects that are finished now", _tuned(run)),
        Litter(
            "submitit's pickles of jobs that have ended", [p for s in ended for p in _named(s.slurm_folder, PICKLE)]
        ),
        Litter(
            "copies of the code that no queued job runs", [p for p in copies if _code_of(p) not in codes], wanted_since
        ),
    ]
    return [sort for sort in found if sort.paths]


def drafts_elsewhere(run: Path) -> dict[str, int]:
    """Host -> drafts of `svdstory run` on it, or in another container: whether they are dead is seen there only."""
    hosts = [
        d.host for path, d in _drafts(run).items() if d.job == "local" and not d.process.is_near and not _is_old(path)
    ]
    return {host: hosts.count(host) for host in sorted(set(hosts))}


def remove(sorts: list[Litter]) -> None:
    """Remove it all. What has gone already is passed over.

    A folder loses its name first: whoever finds the name finds it whole, also when this is killed on the way.
    """
    for sort, path in ((each, path) for each in sorts for path in each.paths):
        if path.is_dir() and not path.is_symlink():
            aside = path if path.name.startswith(".gone.") else path.with_name(f".gone.{path.name}")
            try:
                path.rename(aside)
            except OSError:  # gone already, or not ours to rename: then it stays
                continue
            if sort.wanted(aside):  # asked when the name is gone: whoever comes from now on makes it anew
                with suppress(OSError):  # made anew already
                    aside.rename(path)
                continue
            shutil.rmtree(aside, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _named(folder: Path, name: re.Pattern) -> list[Path]:
    """What lies in the folder under a name that svdstory gives."""
    return [path for path in _entries(folder) if name.fullmatch(path.name)]


def _used_and_ended(known: list[Submission]) -> tuple[list[Submission], list[Submission]]:
    """Submissions with live jobs, or of which it is not known what came of asking for them; and the others."""
    live = {holder.submission.number for holder in holders.live(known)}
    used = [submission for submission in known if submission.is_open or submission.number in live]
    return used, [submission for submission in known if submission not in used]


def _code_of(copy: Path) -> str:
    """The name of a copy of the code, also of one that is being made: `.<name>.<token>` (freeze.py)."""
    return copy.name.removeprefix(".gone.").removeprefix(".").partition(".")[0]


def _drafts(run: Path) -> dict[Path, Attempt]:
    """What is being written, or was when its writer was killed, and whose it is."""
    units = {path: Attempt.of_draft(path.name) for path in _entries(run / "tmp")}
    places = [run / "failures", run / "spectra"]
    hidden = [path for place in places for path in _entries(place) if path.name.startswith(".")]
    units |= {path: Attempt.of_draft(path.name) for path in hidden}
    units |= {path: writer_of(path.name) for path in _entries(run / "scores")}
    return {path: attempt for path, attempt in units.items() if attempt}


def _embeddings(run: Path) -> list[Path]:
    """Drafts of the embedding cache (pipeline/metrics/cache.py), which knows of no jobs: their names say a machine."""
    return _named(run / "scores" / "embeddings", EMBEDDINGS)


def _dead_drafts(run: Path) -> list[Path]:
    """Drafts whose job is not live. Local processes are known to be dead on their own host only; but no
    unit takes a day to be published, so that what is older is nobody's."""
    drafts = list(_drafts(run).items())
    jobs = sorted({attempt.job.partition("_")[0] for _, attempt in drafts} - {"local"})
    live = {element.task for element in scheduler.queue(jobs) if element.live}
    return [
        path for path, a in drafts if (a.process.is_dead or _is_old(path) if a.job == "local" else a.job not in live)
    ]


def _is_old(draft: Path, seconds: float = 86400) -> bool:
    try:
        return time.time() - draft.stat().st_mtime > seconds
    except OSError:  # published or gone in this moment
        return False


def _overcome(run: Path) -> list[Path]:
    records = {path: path.name.split(".")[0] for path in _named(run / "failures", RECORD)}
    wanted = set(records.values())
    finished = Store(run).finished(wanted) | Store(run, SHELF).finished(wanted)
    return [path for path, key in records.items() if key in finished]


def _tuned(run: Path) -> list[Path]:
    folders = {path: path.name.removeprefix(".gone.") for path in _named(run / "tuning", TUNING)}
    finished = Store(run, SHELF).finished(set(folders.values()))
    return [path for path, key in folders.items() if key in finished]
