"""What each task of a submission has to do, in RUN/submissions/NNNN/slices.jsonl: a task reads its own line alone.

However large the run is, a task starts with as much of the plan as it makes.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from svdstory.jobs.study.plan import Plan
from svdstory.pipeline.config.strict import parse


@dataclass(frozen=True)
class Slice:
    """What one task has to do: its part of the plan, whether to sample it, what to score it with.

    shards: those that hold numbers of its units already.
    """

    plan: Plan
    sample: bool
    scorers: tuple[str, ...]
    shards: tuple[str, ...] = ()


def write_slices(folder: Path, slices: Iterable[Slice]) -> None:
    """One file for all tasks: a line of where each one's line begins, then a line for each."""
    lines = [
        json.dumps({**vars(part), "plan": part.plan.model_dump(mode="json")}, ensure_ascii=False).encode() + b"\n"
        for part in slices
    ]
    starts = [0, *accumulate(map(len, lines))][: len(lines)]
    with open(folder / "slices.jsonl", "xb") as file:
        file.writelines([json.dumps(starts).encode() + b"\n", *lines])
        file.flush()
        os.fsync(file.fileno())


def read_slice(folder: Path, task: int) -> Slice:
    """What the task has to do; nothing else of the submission is read."""
    with open(folder / "slices.jsonl", "rb") as file:
        start = json.loads(file.readline())[task]
        file.seek(start, os.SEEK_CUR)
        content = json.loads(file.readline())
    plan = parse(Plan, content["plan"], f"{folder.name}/slices.jsonl, task {task}")
    return Slice(plan, content["sample"], tuple(content["scorers"]), tuple(content["shards"]))
