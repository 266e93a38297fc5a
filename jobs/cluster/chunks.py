"""How many array tasks, and which units each: one model load serves many units, and a task fits its time limit."""

import math
from dataclasses import dataclass

from svdstory.jobs.cluster.sites import Site
from svdstory.jobs.study.tuned import sliced, together
from svdstory.pipeline.config.strict import InputError

# Before anything was measured: one image of 1024 x 1024 pixels, one step, SDXL in float16 on a V100; and loading SDXL's
# weights from a shared disk.
STEP_S = 0.6
LOAD_S = 120.0
FILL = 0.8  # of the time limit: units differ, nodes differ
LOADS_AT_MOST = 0.1  # a model load may take this share of its task, where there are units enough


@dataclass(frozen=True)
class Cost:
    """Seconds: of one unit, and of starting a task up to its first unit; and whether they were measured."""

    unit_s: float
    load_s: float = LOAD_S
    measured: bool = False


def guess(steps: int, size: tuple[int, int], images: float) -> Cost:
    """The cost of units of so many steps, (width, height) and images, before any was made."""
    return Cost(max(1.0, STEP_S * steps * images * size[0] * size[1] / 1024**2))


def cut(
    keys: list[str],
    site: Site,
    cost: Cost,
    room: int | None,
    per_task: int | None = None,
    subjects: dict[str, str] | None = None,
) -> list[list[str]]:
    """Cut the units, in order, into tasks of nearly equal length: of `per_task` units, or as many as are good.

    Then there are at least as many tasks as the time limit needs; and as many as may run at once, as long as each has
    units enough to pay for its model load. `room` is the number of jobs that may still be queued (None: any number),
    and one of them is kept for the reduce job. Tasks that are too long for their time limit are requeued at the limit
    and go on where they were. Units of one tuned subject (`subjects`: unit -> subject) stay in one task.

    Raises InputError where there is room for less than one task and the reduce job.
    """
    if not keys:
        return []
    tasks = math.ceil(len(keys) / per_task) if per_task else _good_number(len(keys), site, cost)
    if room is not None:
        if room < 2:
            raise InputError(
                f"no room in the queue: {room} more jobs may be queued, a task and its reduce job need 2. "
                f"Nothing was queued. Wait for jobs to end, or raise submit_cap in the site profile."
            )
        tasks = min(tasks, room - 1)
    return [part for part in sliced(together(keys, subjects or {}), tasks) if part]


def _good_number(units: int, site: Site, cost: Cost) -> int:
    useful_s = FILL * (60 * site.minutes - site.signal_seconds) - cost.load_s
    fitting = math.ceil(units / (site.workers * max(1, int(useful_s / cost.unit_s))))
    # units that pay for a load, in each of a task's processes
    worthwhile = site.workers * max(1, math.ceil(cost.load_s * (1 / LOADS_AT_MOST - 1) / cost.unit_s))
    return min(units, max(fitting, min(site.parallel, math.ceil(units / worthwhile))))


def arrays(tasks: int, max_array: int | None) -> list[int]:
    """Sizes of the Slurm arrays that hold so many tasks, nearly equal: no index may reach MaxArraySize."""
    count = math.ceil(tasks / (max_array or tasks)) if tasks else 0
    return [(i + 1) * tasks // count - i * tasks // count for i in range(count)]


def shares(arrays: int, parallel: int) -> list[int]:
    """How many tasks each of several arrays may run at once, so that together they run `parallel`.

    Slurm limits each array by itself. Of more arrays than that, each may run one; they have to wait for each other.
    """
    if arrays > parallel:
        return [1] * arrays
    return [(i + 1) * parallel // arrays - i * parallel // arrays for i in range(arrays)]
