"""A check for the certificate: Slurm's warning signal in the middle of a unit, on this device, in a real worker."""

import json
import multiprocessing
import os
import signal
import tempfile
import time
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from svdstory.jobs.node.stop import RESERVE_S, Stop
from svdstory.jobs.node.worker import work
from svdstory.jobs.study.experiment import Experiment
from svdstory.jobs.study.plan import Plan, make_plan
from svdstory.jobs.study.store import Store
from svdstory.pipeline.certify.line import Line, Number
from svdstory.pipeline.certify.specimen import PLAIN, SEED, Specimen
from svdstory.pipeline.config.strict import parse

GIVEN_BACK = 75  # exit status of a worker that a signal has ended (stop.py)
SAME = 1.0  # of 255: on one device the same sums give the same pictures, but for libraries' choice of kernels


def interruption(specimen: Specimen) -> Line:
    """A worker process gets SIGUSR2 at half of its steps; what it leaves; a second worker goes on.

    The first one loads the model before this process does: a card that one process may use at a time is free then.
    """
    with tempfile.TemporaryDirectory(prefix="svdstory-certify-") as scratch:
        plan, store = plan_of(specimen, Path(scratch)), Store(Path(scratch) / "run")
        [key] = plan.units
        status, seconds = interrupted(plan, store, specimen)
        left = sum(path.is_file() for path in store.run.rglob("*")) if store.run.exists() else 0
        work(plan, store, [key], model=specimen.model)
        numbers = [
            Number("exit status of the worker", status, GIVEN_BACK, GIVEN_BACK),
            Number("seconds from the signal to its end", seconds, 0, specimen.signal_s - RESERVE_S),
            Number("files that it left", left, 0, 0),
            Number("units finished by the next worker", int(store.problem(key, deep=True) is None), 1, 1),
        ]
        if store.is_finished(key):
            change = difference(store, key, specimen)
            numbers.append(Number("largest change of a pixel from undisturbed pictures, of 255", change, most=SAME))
    return Line("a warning signal in the middle of a unit costs that unit alone, and the next worker makes it", numbers)


def plan_of(specimen: Specimen, folder: Path) -> Plan:
    """One unit: the specimen's set by plain SDXL."""
    prompts, spec = folder / "set.yaml", specimen.spec
    prompts.write_text(json.dumps(specimen.prompts.content()), encoding="utf-8")
    wanted = {"sets": [str(prompts)], "methods": [PLAIN], "seeds": [SEED], "steps": specimen.steps, "scorers": []}
    model = spec.location if spec.source == "folder" else spec.name
    return make_plan("certify", parse(Experiment, {**wanted, "model": model}, "certify"), folder, spec.dtype)


def interrupted(plan: Plan, store: Store, specimen: Specimen) -> tuple[int, float]:
    """Exit status of a worker that is signalled in the middle, and seconds from the signal to its end."""
    context = multiprocessing.get_context("spawn")
    signalled = context.Value("d", 0.0)
    worker = context.Process(
        target=_work, args=(plan, store.run, specimen.device, specimen.signal_s, specimen.steps // 2, signalled)
    )
    worker.start()
    worker.join()
    return worker.exitcode, time.time() - signalled.value if signalled.value else float("nan")


def _work(plan: Plan, run: Path, device: str | None, signal_s: float, at: int, signalled) -> None:
    """One worker process, whose step number `at` brings the signal."""
    stop, asked = Stop(signal_s, requeue=False, closing=lambda: None), count()
    stop.listen()

    def after_a_step() -> bool:
        if next(asked) == at:
            signalled.value = time.time()
            os.kill(os.getpid(), signal.SIGUSR2)
        return stop()

    work(plan, Store(run), plan.units, device=device, stop=after_a_step)
    if stop():
        stop.give_back()


def difference(store: Store, key: str, specimen: Specimen) -> float:
    """The largest difference of a pixel between the unit's pictures and those that were drawn undisturbed."""
    pairs = (
        (Image.open(store.folder(key) / f"{i}.png"), undisturbed)
        for i, undisturbed in enumerate(specimen.draw(PLAIN).made.images)
    )
    return max(float(np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).max()) for a, b in pairs)
