"""`svdstory bench orchestration`: what planning, publishing, checking and status cost per unit.

The units are real plans' (the `tiny` model's, many seeds) with small stand-ins for images: the pictures' own cost is
not orchestration's.
"""

import shutil
import tempfile
import time
from pathlib import Path

from svdstory.jobs.cluster.status import status
from svdstory.jobs.study.experiment import Experiment
from svdstory.jobs.study.plan import make_plan, plan_path, read_plan, write_plan
from svdstory.jobs.study.store import Attempt, Store

SETS, METHODS, IMAGES = 20, ("sdxl", "consistory", "svd-fraction", "svd-log", "svd-log2"), 3
PICTURE = bytes(2000)


def bench_orchestration(sizes: tuple[int, ...] = (1_000, 10_000), folder: Path | None = None) -> list[dict]:
    """Rows: units, seconds of each part, and microseconds per unit of it. `folder`: on the file system to measure."""
    rows = []
    for units in sizes:
        run = Path(tempfile.mkdtemp(prefix="svdstory-bench-", dir=folder))
        try:
            for part, seconds, count in _parts(units, run):
                rows.append({"units": count, "part": part, "seconds": seconds, "us a unit": 1e6 * seconds / count})
                print(
                    "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()),
                    flush=True,
                )
        finally:
            shutil.rmtree(run)
    return rows


def _parts(units: int, run: Path):
    """(part, seconds, units) of each."""
    seeds = max(1, units // (SETS * 8))  # the methods' sweeps make 8
    before = time.perf_counter()
    experiment = Experiment(model="tiny", sets=("good", "bad"), methods=METHODS, seeds=tuple(range(seeds)))
    plan = make_plan("bench", experiment, run)
    yield "make plan", time.perf_counter() - before, len(plan.units)
    count = len(plan.units)
    before = time.perf_counter()
    write_plan(plan, run)
    yield "write plan", time.perf_counter() - before, count
    before = time.perf_counter()
    plan = read_plan(plan_path(run))
    yield "read plan", time.perf_counter() - before, count
    yield "publish", _publish(plan, run), count
    store = Store(run)
    before = time.perf_counter()
    finished = sum(store.is_finished(key) for key in plan.units)
    yield "check all manifests and sizes", time.perf_counter() - before, finished
    before = time.perf_counter()
    status(run)
    yield "status", time.perf_counter() - before, count


def _publish(plan, run: Path) -> float:
    """Seconds: every unit written, synced and renamed, one process."""
    store, attempt = Store(run), Attempt.here()
    before = time.perf_counter()
    for key in plan.units:
        store.publish(key, {f"{i}.png": PICTURE for i in range(IMAGES)}, {}, attempt)
    return time.perf_counter() - before
