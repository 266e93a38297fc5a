"""`svdstory run`: all of an experiment, here and now: plan, sample, score, reduce."""

import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

from svdstory.pipeline.strict import InputError

from .plan import Plan, write_plan
from .store import Store

BYTES_PER_PIXEL = 3.2      # of a PNG that does not compress at all, and its share of the masks


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
        raise InputError(f"output folder {run}: cannot be written ({error.strerror}). "
                         "Choose another with --out.") from None
    present = Store(run).present()
    needed = sum(bytes_of(plan, key) for key in plan.units if key not in present)
    free = shutil.disk_usage(run).free
    if needed > free:
        raise InputError(f"output folder {run}: {free / 1e6:,.1f} MB free, up to {needed / 1e6:,.1f} MB needed for "
                         f"{len(plan.units)} units. Free some space or choose another folder with --out.")


def bytes_of(plan: Plan, key: str) -> float:
    """Disk that a unit takes at most, in bytes."""
    width, height = plan.size
    return width * height * BYTES_PER_PIXEL * len(plan.sets[plan.units[key].set].settings) + 8192


def sample_all(plan: Plan, store: Store, *, device: str | None, micro_batch: int | None):
    """Make every missing unit in this process, with progress; returns the worker's Outcome."""
    from svdstory.pipeline.worker import work

    with progress(len(plan.units)) as advance:
        def report(key: str, state: str, seconds: float) -> None:
            cell = plan.units[key]
            advance(f"{cell.set} {cell.method} seed {cell.seed}", state, seconds)
        return work(plan, store, plan.units, device=device, micro_batch=micro_batch, report=report)


@contextmanager
def progress(total: int):
    """A bar on a terminal, one line a unit in a batch log. Gives advance(name, state, seconds)."""
    if not sys.stderr.isatty():
        done = 0

        def line(name: str, state: str, seconds: float) -> None:
            nonlocal done
            done += 1
            if state != "found":
                print(f"[{done}/{total}] {name}: {state} ({seconds:.1f} s)", file=sys.stderr, flush=True)
        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("loading the model", total=total)

        def advance(name: str, state: str, seconds: float) -> None:
            bar.update(task, advance=1, description=name)
            if state not in ("done", "found"):
                bar.console.print(f"{name}: {state}")
        yield advance
