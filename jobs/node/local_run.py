"""`svdstory run`: all of an experiment, here and now: plan, sample, score, reduce."""

import multiprocessing
import os
import queue
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from svdstory.jobs.study.plan import Plan
from svdstory.jobs.study.store import Store
from svdstory.pipeline.config.cores import cores
from svdstory.pipeline.config.strict import InputError


def sample_all(
    plan: Plan,
    store: Store,
    *,
    device: str | None,
    micro_batch: int | None,
    workers: int | None = None,
    progress: Callable[[dict[str, int]], AbstractContextManager],
) -> dict[str, str]:
    """Make every missing unit. `progress(steps of each stage)` gives advance(name, state, seconds, stage).

    Returns key -> state ("done", "found" or a failure's cause).

    Workers are processes that share the units and nothing else; a unit that no worker reported was not made. Raises
    InputError where all of them refuse their device or model.
    """
    workers = workers or default_workers(plan, device)
    keys, states = list(plan.units), {}
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    shares = [keys[n::workers] for n in range(min(workers, len(keys)))]
    processes = [
        context.Process(target=_work, args=(plan, store.run, share, place, micro_batch, reports, os.getpid()))
        for share, place in zip(shares, devices(len(shares), device), strict=True)
    ]
    with progress({"": len(keys)}) as advance:
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
    if not states and all(process.exitcode == 2 for process in processes):
        raise InputError("no worker could begin, for what is said above. Nothing was sampled.")
    return states


def default_workers(plan: Plan, device: str | None) -> int:
    """One for each GPU; for the models that fit many times into a laptop, when there is none, one for each core."""
    small = plan.model.source in ("built", "package")
    gpus = gpus_here() if device is None else 1
    on_cpu = device == "cpu" or not gpus
    return cores() if small and on_cpu else max(1, gpus)


def devices(workers: int, device: str | None) -> list[str | None]:
    """The device of each worker: the GPUs in turn, unless one is asked for, or there is at most one."""
    gpus = gpus_here() if device is None else 0
    return [f"cuda:{n % gpus}" if gpus > 1 else device for n in range(workers)]


def gpus_here() -> int:
    """How many NVIDIA GPUs this process may use, without asking torch, which takes seconds to import."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([gpu for gpu in visible.split(",") if gpu.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def _work(plan: Plan, run: Path, keys: list[str], device, micro_batch, reports, parent: int) -> None:
    """One worker process. It ends with its parent, and leaves Ctrl-C to it."""
    import signal

    import torch

    from svdstory.jobs.node.worker import work

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if plan.model.source in ("built", "package"):
        torch.set_num_threads(1)  # small layers gain nothing from more, and the sums are the same on any machine
    try:
        work(
            plan,
            Store(run),
            keys,
            device=device,
            micro_batch=micro_batch,
            stop=lambda: os.getppid() != parent,
            report=lambda *report: reports.put(report),
        )
    except InputError as error:
        print(f"svdstory: {error}", file=sys.stderr)
        sys.exit(2)
