"""`svdstory bench orchestration`: what planning, publishing, checking, numbers and status cost per unit.

The units are real plans' (the `tiny` model's, many seeds) with small stand-ins for images and for embeddings: what the
pictures and the networks cost is not orchestration's.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from svdstory.jobs.cluster.chunks import arrays
from svdstory.jobs.cluster.status import status
from svdstory.jobs.queue import ledger
from svdstory.jobs.queue.slices import Slice
from svdstory.jobs.study.experiment import Experiment
from svdstory.jobs.study.plan import make_plan, plan_path, read_plan, write_plan
from svdstory.jobs.study.scores import Shard, image_hashes, images_digest, read_scores, read_standing
from svdstory.jobs.study.store import Attempt, Store

SETS, METHODS, IMAGES = 20, ("sdxl", "consistory", "svd-fraction", "svd-log", "svd-log2"), 3
PICTURE = bytes(2000)
A_TASK = 25  # units
SCORERS = {  # as many numbers as the report's scorers make of three images
    "clipscore": {"clipscore": 0.7, "clipscore_images": [0.7] * 3},
    "clip-i": {name: 0.7 if name[-1] != "s" else [0.7] * 3 for name in ("clip_i", "clip_i_pairs", "clip_i_subject")},
    "dreamsim": {
        "dreamsim": 0.3,
        "dreamsim_pairs": [0.3] * 3,
        "dreamsim_subject": 0.3,
        "dreamsim_subject_pairs": [0.3] * 3,
    },
    "background": {"background": 0.5, "background_pairs": [0.5] * 3},
    "layout": {"layout": 0.1, "layout_pairs": [0.1] * 3, "layout_subject": 0.1, "layout_subject_pairs": [0.1] * 3},
}
TASK = """
import time; began = time.perf_counter()
import sys
from pathlib import Path
from svdstory.jobs.node import task
from svdstory.jobs.queue.ledger import Submission
from svdstory.jobs.queue.slices import read_slice
from svdstory.jobs.study.scores import read_scores, shards_of
from svdstory.jobs.study.store import Store
place = Submission(Path(sys.argv[1])); run = place.folder.parents[1]
part = read_slice(place.folder, int(sys.argv[2]))
place.intent["site"], list(part.plan.units), Store(run).failed(), read_scores(run, [*part.shards, *shards_of(run, "17_3")])
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(time.perf_counter() - began, time.process_time(), peak / 1024, "torch" in sys.modules)
"""


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
    tasks = [list(plan.units)[i : i + A_TASK] for i in range(0, count, A_TASK)]
    before = time.perf_counter()
    parts = (Slice(plan.only(keys), True, tuple(SCORERS)) for keys in tasks)
    place = ledger.intend(run, 1, tasks, arrays(len(tasks), 1000), parts, site={})
    yield f"announce {len(tasks)} tasks, with a slice of the plan for each", time.perf_counter() - before, count
    yield f"numbers of {len(SCORERS)} scorers, a shard a task", _measure(tasks, run), count
    before = time.perf_counter()
    read_standing(run)
    yield "who is scored (submit, status)", time.perf_counter() - before, count
    before = time.perf_counter()
    read_scores(run)
    yield "all numbers (reduce)", time.perf_counter() - before, count
    _record_failures(list(plan.units)[: count // 10], run)
    started = subprocess.run(
        [sys.executable, "-c", TASK, str(place.folder), str(len(tasks) // 2)],
        check=True,
        capture_output=True,
        text=True,
    )
    seconds, cpu, megabytes, torch = started.stdout.split()
    assert torch == "False"
    yield f"a task's start before torch: {float(cpu):.2f} s of CPU, {float(megabytes):.0f} MB", float(seconds), 1
    files = {name: sum(len(f) for _, _, f in os.walk(run / name)) for name in ("units", "scores", "submissions")}
    yield "files: " + ", ".join(f"{n} in {name}" for name, n in files.items()), 0.0, count


class Stated:
    """A scorer by its name and a protocol as long as a real one."""

    def __init__(self, name: str):
        self.name, self.protocol = name, {"scorer": name, "weights": "ab" * 32, "formula": "a mean over pairs " * 5}


def _measure(tasks: list[list[str]], run: Path) -> float:
    """Seconds: each task's numbers written, synced and renamed, one process."""
    store, before = Store(run), time.perf_counter()
    for keys in tasks:
        shard = Shard(run)
        for key in keys:
            images = images_digest(image_hashes(store.manifest(key)))
            for name, values in SCORERS.items():
                shard.add(key, Stated(name), images, values)
        shard.publish()
    return time.perf_counter() - before


def _record_failures(keys: list[str], run: Path) -> None:
    """As a run has them in which a tenth of the units failed once."""
    (run / "failures").mkdir()
    for key in keys:
        (run / "failures" / f"{key}.17_3-r0-n1-4711.json").write_text("{}")


def _publish(plan, run: Path) -> float:
    """Seconds: every unit written, synced and renamed, one process."""
    store, attempt = Store(run), Attempt.here()
    before = time.perf_counter()
    for key in plan.units:
        store.publish(key, {f"{i}.png": PICTURE for i in range(IMAGES)}, {"images": IMAGES}, attempt)
    return time.perf_counter() - before
