"""A run's folder before anything is made in it: can it be written, is there room, what did killed processes leave."""

import os
import shutil
from pathlib import Path

from svdstory.jobs.study.plan import Plan, write_plan
from svdstory.jobs.study.store import Store
from svdstory.pipeline.config.strict import InputError

BYTES_PER_PIXEL = 3.2  # of a PNG that does not compress at all, and its share of the masks


def prepare(plan: Plan, run: Path) -> Store:
    """Make the run folder, write the plan into it, and sweep what killed processes left.

    Raises InputError for a folder that cannot be written or is too small.
    """
    check_output(plan, run)
    write_plan(plan, run)
    store = Store(run)
    store.sweep()
    return store


def check_output(plan: Plan, run: Path) -> None:
    """Raises InputError if the run folder cannot be written, or its disk has no room for the missing units."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        probe = run / f".writable-{os.getpid()}"
        probe.write_bytes(b"svdstory")
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"output folder {run}: cannot be written ({error.strerror}). Choose another with --out."
        ) from None
    present = Store(run).present()
    needed = sum(bytes_of(plan, key) for key in plan.units if key not in present)
    free = shutil.disk_usage(run).free
    if needed > free:
        raise InputError(
            f"output folder {run}: {free / 1e6:,.1f} MB free, up to {needed / 1e6:,.1f} MB needed for "
            f"{len(plan.units)} units. Free some space or choose another folder with --out."
        )


def bytes_of(plan: Plan, key: str) -> float:
    """Disk that a unit takes at most, in bytes."""
    width, height = plan.size
    return width * height * BYTES_PER_PIXEL * len(plan.sets[plan.units[key].set].settings) + 8192
