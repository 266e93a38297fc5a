"""What each attempt of a task did: lines appended to `task-N.jsonl`, one file a task whatever happens to it.

An attempt that was killed has a first line and no last one. A line that two attempts garbled (a node that hung and
woke) is passed over: these lines inform people and estimates; what is finished is told by the store alone.
"""

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class TaskAttempt:
    """One attempt of a task. Times are in seconds since the epoch, durations in seconds."""

    task: int
    job: str
    restart: int
    node: str
    started: float
    ended: float | None = None  # None: it was killed, or is running
    ending: str | None = None  # finished | stopped | bad node | crashed
    made: int = 0  # units published
    failed: int = 0
    unit: str = ""  # the key at hand when it ended early
    process: int = 0  # of `processes` that share the task's units
    processes: int = 1
    load_s: float = 0.0  # the model, once
    units_s: float = 0.0  # inside units: sampling, decoding, publishing
    scored: int = 0  # numbers of one unit by one scorer
    score_s: float = 0.0  # after the last unit: scorers loaded, images read and measured


def write(folder: Path, attempt: TaskAttempt) -> None:
    """Append one line about the attempt to its task's file."""
    line = json.dumps(asdict(attempt)) + "\n"
    descriptor = os.open(folder / f"task-{attempt.task}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(descriptor, line.encode())  # one write: lines of two attempts do not mix on a local file system
    finally:
        os.close(descriptor)


def read(folder: Path, task: int | None = None) -> list[TaskAttempt]:
    """The last line of each attempt of a submission's tasks, or of one, in the order in which they started."""
    names = (
        [f"task-{task}.jsonl"]
        if task is not None
        else [entry.name for entry in os.scandir(folder) if re.fullmatch(r"task-\d+\.jsonl", entry.name)]
    )
    latest: dict[tuple, TaskAttempt] = {}
    for name in names:
        for line in (folder / name).read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                attempt = TaskAttempt(**json.loads(line))
            except (ValueError, TypeError):
                continue
            latest[attempt.task, attempt.job, attempt.restart, attempt.process, attempt.started] = attempt
    return sorted(latest.values(), key=lambda attempt: attempt.started)


def unit_seconds(attempts: list[TaskAttempt]) -> float | None:
    """Seconds that a unit took in earlier attempts, with its scoring, on average. None where none was published."""
    ended = [attempt for attempt in attempts if attempt.made]
    units = sum(attempt.made + attempt.failed for attempt in ended)
    return max(0.001, sum(attempt.units_s + attempt.score_s for attempt in ended) / units) if units else None


def load_seconds(attempts: list[TaskAttempt]) -> float | None:
    """Seconds from a task's start to its first unit, at the slowest. None where nothing was measured."""
    return max((attempt.load_s for attempt in attempts if attempt.load_s), default=None)
