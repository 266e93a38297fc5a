"""A run's folder before anything is made in it: can it be written, is there room, what did killed processes leave."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from svdstory.jobs.study import scores
from svdstory.jobs.study.plan import Plan, plans_of, read_plan, write_plan
from svdstory.jobs.study.process import Process
from svdstory.jobs.study.sharing import guard, share
from svdstory.jobs.study.store import Store
from svdstory.jobs.study.tuned import SHELF, disk_bytes
from svdstory.pipeline.config.references import unchanged
from svdstory.pipeline.config.strict import InputError

FILES_A_UNIT = 2  # beside its images: masks, manifest
FILES_A_TASK = 5 + scores.FILES_A_TASK  # of Slurm: its script's share, pickle, log, result, attempts
FILES_A_SET = 3  # its grid, its thumbnails on the page and in the cache
FILES_OF_A_REPORT = 100  # tables, figures in four formats, the page
BYTES_PER_PIXEL = 3.2  # of a PNG that does not compress at all, and its share of the masks


def prepare(plan: Plan, run: Path, replace: bool = False, group: str | None = None) -> Store:
    """Make the run folder, write the plan into it, and sweep what killed processes left. `group`: who may write there.

    Raises InputError for a folder that cannot be written or is too small, and, unless it is to `replace` the run's
    plan, for a plan that lacks cells of it.
    """
    guard()
    if not replace:
        check_growth(plan, run)
    check_output(plan, run)
    if group:
        share(run, group)
    guard(run)
    write_plan(plan, run)
    store = Store(run)
    store.sweep()
    return store


def check_growth(plan: Plan, run: Path) -> None:
    """Raises InputError if the run's plan has cells that this one drops or changes: it would be replaced unasked."""
    before = plans_of(run)
    if not before or before[-1].stem.endswith(plan.hash()):
        return
    last = read_plan(before[-1])
    for name in plan.sets.keys() & last.sets.keys():
        known = {one.image: one.sha256 for one in last.sets[name].references}
        for one in plan.sets[name].references:
            unchanged(Path(one.image), known.get(one.image, ""))
    old, new = ({(cell.set, cell.method, cell.seed): cell.key for cell in cells} for cells in (last.cells, plan.cells))
    made = Store(run).present()

    def came_since(place: tuple) -> bool:
        """A hole, for want of pictures made elsewhere, that has them now, or some."""
        return bool(plan.methods[place[1]].pictures) and old[place] not in made

    dropped = [place for place in old if place not in new]
    changed = [place for place in old if place in new and new[place] != old[place] and not came_since(place)]
    if dropped or changed:
        name, method, seed = (dropped + changed)[0]
        raise InputError(
            f"{run}: this run has a plan of {len(old)} cells; what is asked for now has {len(new)}, without "
            f"{len(dropped)} of those and with other settings for {len(changed)} (first: {name}, {method}, seed {seed}). "
            "Give another folder with --out, or ask for all of them; --replace makes this the run's plan all the same "
            "(finished units stay)."
        )


def check_output(plan: Plan, run: Path) -> None:
    """Raises InputError if the run folder cannot be written, or its disk has no room for the missing units."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        probe = run / f".writable-{Process.here()}"
        probe.write_bytes(b"svdstory")
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"output folder {run}: cannot be written ({error.strerror}). Choose another with --out."
        ) from None
    present = Store(run).present()
    needed = sum(bytes_of(plan, key) for key in plan.units if key not in present) + subjects_bytes(plan, run)
    free = shutil.disk_usage(run).free
    if needed > free:
        raise InputError(
            f"output folder {run}: {free / 1e6:,.1f} MB free, up to {needed / 1e6:,.1f} MB needed for "
            f"{len(plan.units)} units. Free some space or choose another folder with --out."
        )


def files_of(plan: Plan, keys: Iterable[str], tasks: int) -> int:
    """Files that these units, made by so many tasks, and a report of the whole plan are: a quota counts them."""
    units = sum(len(plan.sets[plan.units[key].set].settings) + FILES_A_UNIT for key in keys)
    return units + FILES_A_TASK * tasks + FILES_A_SET * len(plan.sets) + FILES_OF_A_REPORT


def subjects_bytes(plan: Plan, run: Path) -> float:
    """Disk that the tuned subjects take which the run lacks, in bytes."""
    present = Store(run, SHELF).present()
    lacking = {one.key: one for one in plan.sittings.values() if one.key not in present}
    return sum(disk_bytes(one, plan.model, plan.size) for one in lacking.values())


def bytes_of(plan: Plan, key: str) -> float:
    """Disk that a unit takes at most, in bytes."""
    width, height = plan.size
    return width * height * BYTES_PER_PIXEL * len(plan.sets[plan.units[key].set].settings) + 8192
