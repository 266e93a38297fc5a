"""`svdstory run`: all of an experiment, here and now: plan, sample, score, reduce."""

import multiprocessing
import os
import queue
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


def sample_all(plan: Plan, store: Store, *, device: str | None, micro_batch: int | None,
               workers: int | None = None) -> dict[str, str]:
    """Make every missing unit, with progress. Returns key -> state ("done", "found" or a failure's cause).

    Workers are processes that share the units and nothing else; a unit that no worker reported was not made.
    """
    workers = workers or default_workers(plan, device)
    keys, states = list(plan.units), {}
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    shares = [keys[n::workers] for n in range(min(workers, len(keys)))]
    processes = [context.Process(target=_work, args=(plan, store.run, share, device, micro_batch, reports, os.getpid()))
                 for share in shares]
    with progress(len(keys)) as advance:
        try:
            for process in processes:
                process.start()
            while len(states) < len(keys):
                try:
                    key, state, seconds = reports.get(timeout=0.5)
                except queue.Empty:
                    if not any(process.is_alive() for process in processes) and reports.empty():
                        break
                    continue
                cell = plan.units[key]
                states[key] = state
                advance(f"{cell.set} {cell.method} seed {cell.seed}", state, seconds)
        finally:
            for process in processes:
                process.join() if sys.exc_info()[0] is None else process.kill()
    return states


def default_workers(plan: Plan, device: str | None) -> int:
    """One; for the models that fit many times into a laptop, when there is no GPU, one for each core."""
    small = plan.model.source in ("built", "package")
    on_cpu = device == "cpu" or device is None and not Path("/dev/nvidia0").exists()
    return len(os.sched_getaffinity(0)) if small and on_cpu else 1


def _work(plan: Plan, run: Path, keys: list[str], device, micro_batch, reports, parent: int) -> None:
    """One worker process. It ends with its parent, and leaves Ctrl-C to it."""
    import signal

    import torch

    from svdstory.pipeline.worker import work

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if plan.model.source in ("built", "package"):
        torch.set_num_threads(1)     # small layers gain nothing from more, and the sums are the same on any machine
    try:
        work(plan, Store(run), keys, device=device, micro_batch=micro_batch, stop=lambda: os.getppid() != parent,
             report=lambda *report: reports.put(report))
    except InputError as error:
        print(f"svdstory: {error}", file=sys.stderr)
        sys.exit(2)


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
