"""`svdstory run`: all of an experiment, here and now: plan, sample, score, reduce."""

import multiprocessing
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from svdstory.jobs.study.plan import Plan
from svdstory.jobs.study.scores import Shard, read_scores
from svdstory.jobs.study.store import Store
from svdstory.jobs.study.tuned import dealt, together
from svdstory.pipeline.config.cores import cores
from svdstory.pipeline.config.strict import InputError

GRACE_S = 30.0  # for a worker whose parent has died: to end its step, and publish its numbers


def make_all(
    plan: Plan,
    store: Store,
    *,
    device: str | None,
    micro_batch: int | None,
    workers: int | None = None,
    progress: Callable[[dict[str, int]], AbstractContextManager],
) -> tuple[dict[str, str], dict[tuple[str, str], str]]:
    """Make every missing unit and score it. `progress(steps of each stage)` gives advance(name, state, seconds, stage).

    Returns key -> state ("done", "found" or a failure's cause), and (scorer, key) -> state ("scored", "fresh" or why
    there are no numbers). Workers are processes that share the units and nothing else; what no worker reported was not
    made. Raises InputError where all of them refuse their device or model.
    """
    workers = workers or default_workers(plan, device)
    keys, states, scores = list(plan.units), {}, {}
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    shares = dealt(together(keys, plan.subject_of), workers, store.present())
    processes = [
        context.Process(target=_work, args=(plan, store.run, share, place, micro_batch, reports, os.getpid()))
        for share, place in zip(shares, devices(len(shares), device), strict=True)
    ]
    with progress(dict.fromkeys(("", *plan.scorers), len(keys))) as advance:
        try:
            for process in processes:
                process.start()
            for scorer, key, state, seconds in _reports(reports, processes):
                cell = plan.units[key]
                (scores if scorer else states)[(scorer, key) if scorer else key] = state
                label = f"{cell.set} {cell.method} seed {cell.seed}"
                shown = {"scored": "done", "fresh": "found"}.get(state, state)
                advance(f"{scorer}: {label}" if scorer else label, shown, seconds, scorer)
        finally:
            for process in processes:
                process.join() if sys.exc_info()[0] is None else process.kill()
    if not states and all(process.exitcode == 2 for process in processes):
        raise InputError("no worker could begin, for what is said above. Nothing was sampled.")
    return states, scores


def _reports(reports, processes: list) -> Iterator[tuple[str, str, str, float]]:
    """(scorer, key, state, seconds), the scorer empty for sampling, until all processes have ended."""
    while True:
        alive = any(process.is_alive() for process in processes)  # asked first: what they left is in the queue then
        try:
            yield reports.get(timeout=0.2)
        except queue.Empty:
            if not alive:
                return


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
    threading.Thread(target=_outlive_nobody, daemon=True).start()
    import signal

    import torch

    from svdstory.jobs.node.turn import take_turn

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if plan.model.source in ("built", "package"):
        torch.set_num_threads(1)  # small layers gain nothing from more, and the sums are the same on any machine
    try:
        take_turn(
            plan,
            run,
            keys,
            plan.scorers,
            known=read_scores(run),
            shard=Shard(run),
            device=device,
            micro_batch=micro_batch,
            stop=lambda: os.getppid() != parent,
            report=lambda *report: reports.put(("", *report)),
            report_score=lambda *report: reports.put(report),
        )
    except InputError as error:
        print(f"svdstory: {error}", file=sys.stderr)
        sys.exit(2)


def _outlive_nobody() -> None:
    """End this process soon after its parent, also in the middle of a load or a batch of pictures that are scored."""
    multiprocessing.parent_process().join()
    time.sleep(GRACE_S)
    os._exit(75)
