"""How many array tasks, and which units each: one model load serves many units, and a task fits its time limit."""

import math
from dataclasses import dataclass

from svdstory.jobs.sites import Site
from svdstory.pipeline.strict import InputError

# Before anything was measured: SDXL, five images of 50 steps on a V100, and loading its weights from a shared disk.
UNIT_S = 150.0
LOAD_S = 120.0
FILL = 0.8  # of the time limit: units differ, nodes differ
LOADS_AT_MOST = 0.1  # a model load may take this share of its task, where there are units enough


@dataclass(frozen=True)
class Cost:
    """Seconds: of one unit, and of starting a task up to its first unit; and whether they were measured."""

    unit_s: float = UNIT_S
    load_s: float = LOAD_S
    measured: bool = False


def cut(keys: list[str], site: Site, cost: Cost, room: int | None) -> list[list[str]]:
    """Cut the units, in order, into tasks of nearly equal length.

    There are at least as many tasks as the time limit needs, and no more than pay for their model load, unless the
    array may run that many at once. `room` is the number of jobs that may still be queued (None: any number);
    one of them is kept for the reduce job. Tasks that are too long for their time limit because of it are requeued at the
    limit and go on where they were.

    Raises InputError where there is room for less than one task and the reduce job.
    """
    if not keys:
        return []
    useful_s = max(FILL * (60 * site.minutes - site.signal_seconds) - cost.load_s, cost.unit_s)
    fitting = math.ceil(len(keys) / max(1, int(useful_s / cost.unit_s)))
    worthwhile = max(1, math.ceil(cost.load_s * (1 / LOADS_AT_MOST - 1) / cost.unit_s))  # units that pay for a load
    wide = min(site.parallel, math.ceil(len(keys) / worthwhile))
    tasks = min(len(keys), max(fitting, wide))
    if room is not None:
        if room < 2:
            raise InputError(
                f"no room in the queue: {room} more jobs may be queued, a task and its reduce job need 2. "
                f"Nothing was queued. Wait for jobs to end, or raise submit_cap in the site profile."
            )
        tasks = min(tasks, room - 1)
    return [keys[i * len(keys) // tasks : (i + 1) * len(keys) // tasks] for i in range(tasks)]


def arrays(tasks: int, max_array: int | None) -> list[int]:
    """Sizes of the Slurm arrays that hold so many tasks: indices run from 0 to MaxArraySize - 1."""
    size = max_array or tasks
    return [min(size, tasks - first) for first in range(0, tasks, size)]
