"""What was asked of Slurm, so that a launcher killed at any moment leaves nothing unknown behind.

    RUN/submissions/0003/intent.json    what will be queued, under which job names; written before the first sbatch
    RUN/submissions/0003/slices.jsonl   what each task has to do: its part of the plan, the scorers
    RUN/submissions/0003/array-0.json   the job id that sbatch gave, or the words with which it refused
    RUN/submissions/0003/task-7.jsonl   what attempt after attempt of task 7 did (see attempts.py)
    RUN/submissions/0003/reduced.json   whether its report has holes
    RUN/submissions/0003/slurm/         submitit's scripts, pickles and logs

A job whose launcher died between sbatch and array-0.json is found again by its name, which holds a token of the intent.
The folder's number is taken by a rename onto a name that does not exist: of two launchers at once, one wins.
"""

import errno
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from svdstory.jobs.queue import scheduler
from svdstory.jobs.queue.slices import Slice, write_slices
from svdstory.jobs.study.process import Process
from svdstory.jobs.study.store import TAKEN
from svdstory.pipeline.config.strict import InputError

# A launcher on another machine cannot be seen to live. While it is at work it touches its intent every HEARTBEAT_S
# seconds; it is believed dead when nobody has for FOREIGN_LAUNCHER_S.
HEARTBEAT_S = 60
FOREIGN_LAUNCHER_S = 600


@dataclass(frozen=True)
class Array:
    """Some tasks of a submission that are one Slurm array, and what came of asking for it."""

    number: int
    name: str  # the Slurm job name
    first: int  # its element i is the submission's task first + i
    count: int
    job: str | None  # Slurm's id; None: not queued, or not known yet
    refused: str | None  # Slurm's words


class Submission:
    """One `RUN/submissions/NNNN`. Its intent never changes; its other files are written once each."""

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def intent(self) -> dict:
        return json.loads(_read_patiently(self.folder / "intent.json"))

    @property
    def number(self) -> int:
        return int(self.folder.name)

    @property
    def tasks(self) -> list[list[str]]:
        """The unit keys of each task."""
        return self.intent["tasks"]

    @property
    def slurm_folder(self) -> Path:
        return self.folder / "slurm"

    @property
    def arrays(self) -> list[Array]:
        """The arrays of tasks, and last the reduce job (an array of no tasks). Read from disk at each call."""
        return [self._array(number, *shape) for number, shape in enumerate(self.intent["arrays"])]

    def _array(self, number: int, name: str, first: int, count: int) -> Array:
        try:
            answer = json.loads((self.folder / f"array-{number}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            answer = {}
        return Array(number, name, first, count, answer.get("job"), answer.get("refused"))

    def record(self, array: Array, job: str | None = None, refused: str | None = None) -> None:
        """Write down what sbatch answered."""
        write_whole(self.folder / f"array-{array.number}.json", {"job": job, "refused": refused, "at": time.time()})

    @property
    def is_open(self) -> bool:
        """Whether it is not known of some array what came of asking for it."""
        return any(array.job is None and array.refused is None for array in self.arrays)

    @property
    def reduced(self) -> bool:
        """Whether its reduce job has built a report of all cells of the plan."""
        try:
            return json.loads((self.folder / "reduced.json").read_text(encoding="utf-8"))["complete"]
        except FileNotFoundError:
            return False

    def element_of(self, task: int) -> str | None:
        """The Slurm id of a task: `17_3`, or `17` where the array has one task only."""
        for array in self.arrays:
            if array.job and array.first <= task < array.first + array.count:
                return array.job if array.count == 1 else f"{array.job}_{task - array.first}"
        return None

    def launcher_lives(self) -> bool:
        """Whether the process that wrote the intent may still be queueing (it, or an sbatch that it left behind)."""
        launcher = self.intent["launcher"]
        process = Process.of(launcher["process"])
        if not process.is_near:
            return time.time() - (self.folder / "intent.json").stat().st_mtime < FOREIGN_LAUNCHER_S
        if process.pid != os.getpid() and not process.is_dead and _started(process.pid) == launcher["started"]:
            return True
        return _sbatch_at_work(self.slurm_folder)

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Inside it, machines that do not see this launcher know that it lives."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT_S):
                with suppress(OSError):  # the next beat may be luckier
                    os.utime(self.folder / "intent.json")  # by the file server's clock, which all see

        threading.Thread(target=beat, daemon=True).start()
        try:
            yield
        finally:
            ended.set()


def submissions(run: Path) -> list[Submission]:
    """All submissions of a run, oldest first."""
    try:
        names = sorted(entry.name for entry in os.scandir(run / "submissions") if entry.name.isdigit())
    except FileNotFoundError:
        return []
    return [Submission(run / "submissions" / name) for name in names]


def intend(
    run: Path,
    number: int,
    tasks: list[list[str]],
    array_sizes: list[int],
    slices: Iterable[Slice] = (),
    **facts,
) -> Submission | None:
    """Announce a submission, atomically. None where another launcher took the number first: look again.

    `array_sizes` are the tasks of each array, in order; `slices` are what each task reads; `facts` (site, plan, code)
    go into the intent as they are.
    """
    token = secrets.token_hex(4)
    launcher = {"process": str(Process.here()), "started": _started(os.getpid())}
    intent = {"tasks": tasks, "arrays": shapes(token, array_sizes), "launcher": launcher}
    folder = run / "submissions" / f"{number:04d}"
    mine = run / "submissions" / f".{token}"
    try:
        (mine / "slurm").mkdir(parents=True)
        write_whole(mine / "intent.json", {**intent, **facts})
        write_slices(mine, slices)
        mine.rename(folder)  # onto a folder with content: refused by the file system, whoever else tries
    except OSError as error:
        shutil.rmtree(mine, ignore_errors=True)
        if error.errno not in TAKEN:
            raise
        return None
    return Submission(folder)


def shapes(token: str, array_sizes: list[int]) -> list[tuple[str, int, int]]:
    """Name, first task and number of tasks of each array, and last of the reduce job, which has none."""
    firsts = [sum(array_sizes[:i]) for i in range(len(array_sizes) + 1)]
    names = [f"svdstory-{token}-{i}" for i in range(len(array_sizes))]
    return list(zip([*names, f"svdstory-{token}-reduce"], firsts, [*array_sizes, 0], strict=True))


def settle(submission: Submission, adopt: Callable[[Array, str], None]) -> list[Array]:
    """Find the job ids that a killed launcher did not write down, and write them down.

    `adopt(array, job)` does what else the launcher left undone; it comes first, so that one who is killed in it finds
    the job again. Returns the arrays that were adopted so. Raises SlurmError where the controller does not answer: then
    nobody can tell, and nothing may be queued a second time.
    """
    unknown = [array for array in submission.arrays if array.job is None and array.refused is None]
    if not unknown or submission.launcher_lives():
        return []
    found = scheduler.find([array.name for array in unknown])
    for array in unknown:
        if array.name in found:
            adopt(array, found[array.name])
            submission.record(array, job=found[array.name])
        else:
            submission.record(array, refused="the launcher ended before it was queued")
    return [array for array in submission.arrays if array.job in found.values()]


def next_number(run: Path, deadline_s: float = 60) -> int:
    """The number of the next submission, once no other launcher is at work on this run.

    Both are told by one listing: a launcher that comes after it takes this very number, and only one of us gets it.
    Raises InputError that names the launcher which is still at work at the deadline.
    """
    end = time.monotonic() + deadline_s
    while True:
        known = submissions(run)
        busy = [submission for submission in known if submission.is_open and submission.launcher_lives()]
        if not busy:
            return max((submission.number for submission in known), default=0) + 1
        if time.monotonic() > end:
            launcher = Process.of(busy[0].intent["launcher"]["process"])
            raise InputError(
                f"{busy[0].folder}: another submit (process {launcher.pid} on {launcher.host}) is at work on "
                f"this run for over {deadline_s:g} s. Wait for it, or end it and submit again."
            )
        time.sleep(0.2)


def write_whole(path: Path, content: dict) -> None:
    """Write JSON so that a reader sees all of it or nothing, also after a crash."""
    draft = path.with_name(f".{path.name}.{Process.here()}")
    with open(draft, "w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)


def _read_patiently(path: Path, deadline_s: float = 30) -> str:
    """Read a file that was written for certain: on NFS and Lustre, another node may see it late, or a stale handle."""
    end = time.monotonic() + deadline_s
    while True:
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE) or time.monotonic() > end:
                raise
        time.sleep(0.5)


def _started(pid: int) -> str | None:
    """When the process started, in clock ticks since boot: with its pid, its identity. None: there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[19] if fields[0] not in "ZX" else None


def _sbatch_at_work(folder: Path) -> bool:
    """Whether an sbatch whose script lies in `folder` runs on this machine: a killed launcher's child goes on."""
    for entry in os.scandir("/proc") if os.path.isdir("/proc") else ():
        if entry.name.isdigit():
            try:
                words = Path(entry.path, "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[0].endswith(b"sbatch") and any(word.startswith(os.fsencode(folder)) for word in words):
                return True
    return False
