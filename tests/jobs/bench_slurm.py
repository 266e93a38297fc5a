"""What orchestration costs: python -m tests.jobs.bench_slurm [--units 10000] [--faults FILE]

Brings up the test cluster with four nodes, measures a study with the real tiny model from submit to report, and plan,
submit, status and reduce of synthetic units. Writes results/benchmarks/slurm.json and slurm.md. `--faults` takes the
table that the tests write (SVDSTORY_FAULTS=FILE pytest tests/jobs/test_slurm_*.py).
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from svdstory.jobs.queue import attempts
from svdstory.jobs.study.plan import Plan, plan_path, read_plan
from svdstory.jobs.study.store import MANIFEST, Store
from tests.jobs.cluster import Cluster, until
from tests.jobs.study import Study

RESULTS = Path(__file__).parents[2] / "results" / "benchmarks"
METHODS = [
    "sdxl-no-freeu",
    "sdxl",
    "consistory",
    "unmasked",
    "svd-top",
    "svd-energy",
    "svd-exp",
    "svd-log",
    "svd-log2",
    "consistory-no-injection",
]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--units", type=int, default=10_000)
    asked.add_argument("--faults", type=Path)
    asked.add_argument("--reduce", action="store_true", help="measure reduce too: minutes")
    asked = asked.parse_args()
    cluster = Cluster(Path(f"/tmp/svdstory-bench-{os.getpid()}"), 20800, nodes=4, max_array=1001)
    cluster.up()
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = {
                "machine": machine(cluster),
                "study": study(cluster, Path(folder)),
                "synthetic": synthetic(cluster, Path(folder), asked.units, asked.reduce),
            }
    finally:
        cluster.down()
    if asked.faults:
        result |= json.loads(asked.faults.read_text(encoding="utf-8"))
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "slurm.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (RESULTS / "slurm.md").write_text(page(result), encoding="utf-8")


def machine(cluster: Cluster) -> dict:
    version = cluster.ask("sinfo", "--version").strip()
    return {
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "slurm": version,
        "date": time.strftime("%Y-%m-%d"),
    }


def study(cluster: Cluster, folder: Path) -> dict:
    """Submit to report with the real tiny model: one task on each of four nodes."""
    made = Study(
        cluster,
        folder / "study",
        light=False,
        subjects=6,
        seeds=8,
        steps=12,
        per_task=12,
        site={"cpus": 5, "gpu": {"option": "gpus-per-node", "value": "v100:1"}, "memory_gb": 4.0},
    )
    began = time.monotonic()
    made.submit()
    submitted = time.monotonic()
    until("all units to be finished", lambda: made.finished() == made.units, 900)
    finished = time.monotonic()
    until("the report", lambda: made.submissions[0].reduced, 600)
    turns = attempts.read(made.submissions[0].folder)
    total = sum(turn.ended - turn.started for turn in turns)
    return {
        "units": made.units,
        "tasks": len(turns),
        "nodes": len({turn.node for turn in turns}),
        "submit_s": round(submitted - began, 1),
        "units_done_s": round(finished - began, 1),
        "report_s": round(time.monotonic() - began, 1),
        "model_loads": len(turns),
        "task_s": round(total, 1),
        "loading_s": round(sum(turn.load_s for turn in turns), 1),
        "sampling_share": round(sum(turn.units_s for turn in turns) / total, 3),
        "sampling_share_after_load": round(sum(t.units_s for t in turns) / (total - sum(t.load_s for t in turns)), 3),
    }


def synthetic(cluster: Cluster, folder: Path, units: int, reduced: bool) -> dict:
    """plan, submit (to an sbatch that queues nothing), status and reduce of a run of so many units."""
    made = Study(cluster, folder / "synthetic", subjects=6, per_task=25, site={"minutes": 120})
    seeds = units // (made.subjects * len(METHODS)) + 1
    made.write(
        "study.yaml",
        {
            "sets": ["./prompts"],
            "methods": METHODS,
            "model": "tiny",
            "steps": 4,
            "size": [64, 64],
            "seeds": list(range(seeds)),
            "scorers": ["clipscore:tiny"],
        },
    )
    calls = listen(made)
    result = {"plan": measured(made, calls, "plan", "study.yaml", "--out", "run")}
    result["submit"] = measured(made, calls, *made.submit_words)
    result["submit_again"] = measured(made, calls, *made.submit_words)
    plan, store = read_plan(plan_path(made.run)), Store(made.run)
    for number, key in enumerate(plan.units):
        publish(plan, store, key, number)
    result["status"] = measured(made, calls, "status", "run")
    result["verify"] = measured(made, calls, "verify", "run")
    if reduced:
        result["reduce"] = measured(made, calls, "reduce", "run")
    submission = made.submissions[0]
    files = sum(len(names) for _, _, names in os.walk(submission.folder))
    of_a_unit = len(os.listdir(store.folder(next(iter(plan.units)))))
    return {
        "units": len(plan.units),
        "tasks": len(submission.tasks),
        "files_a_unit": of_a_unit,
        "files_a_task_before_it_runs": round(files / len(submission.tasks), 2),
        "commands": result,
    }


def listen(study: Study) -> Path:
    """Slurm's commands, each noting that it was called; sbatch queues nothing."""
    folder, calls = study.folder / "bin", study.folder / "calls"
    folder.mkdir()
    for name in ("sbatch", "squeue", "sacct", "scontrol", "scancel"):
        real = (
            'echo "Submitted batch job $((1000000 + $(grep -c sbatch "$CALLS")))"'
            if name == "sbatch"
            else f'exec {shutil.which(name)} "$@"'
        )
        (folder / name).write_text(f'#!/bin/bash\nCALLS="{calls}"\necho {name} >> "$CALLS"\n{real}\n')
        (folder / name).chmod(0o755)
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
    return calls


def measured(study: Study, calls: Path, *words: str) -> dict:
    """Seconds, peak memory in MB and Slurm calls of one command."""
    calls.write_text("")
    began = time.monotonic()
    process = subprocess.Popen(
        study.command(*words),
        cwd=study.folder,
        env=study.cluster.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 1), error
    return {
        "seconds": round(time.monotonic() - began, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "memory_mb": round(usage.ru_maxrss / 1024),
        "slurm_calls": dict(Counter(calls.read_text().split())),
    }


def publish(plan: Plan, store: Store, key: str, number: int) -> None:
    """A finished unit as the worker leaves it, without its syncs to disk."""
    import io

    from PIL import Image

    cell, folder = plan.units[key], store.folder(key)
    prompts, method = plan.sets[cell.set], plan.methods[cell.method]
    files = {"tensors.safetensors": b"\x02\0\0\0\0\0\0\0{}"}
    for image in range(len(prompts.settings)):
        pixels = hashlib.shake_128(f"{number} {image}".encode()).digest(64 * 64 * 3)
        buffer = io.BytesIO()
        Image.frombytes("RGB", (64, 64), pixels).save(buffer, format="PNG", compress_level=1)
        files[f"{image}.png"] = buffer.getvalue()
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    listed = {n: {"size": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in files.items()}
    now = time.time()
    manifest = {
        "schema": 1,
        "key": key,
        "set": {"name": cell.set, **prompts.content()},
        "prompts": prompts.prompts,
        "method": {"name": cell.method, **method.switches()},
        "seed": cell.seed,
        "attempt": "synthetic",
        "setting": {
            "steps": plan.steps,
            "size": list(plan.size),
            "guidance": plan.guidance,
            "scheduler": plan.scheduler,
        },
        "model": {"name": plan.model.name, **plan.model.content(), "note": plan.model.note},
        "images": len(prompts.settings),
        "counters": {},
        "times": {"began": now, "ended": now},
        "device": "cpu",
        "versions": {},
        "code": {},
        "files": listed,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))


def page(result: dict) -> str:
    """The figures for people."""
    m, s, y = result["machine"], result["study"], result["synthetic"]
    rows = [
        f"| {name.replace('_', ' ')} | {c['seconds']} | {c['cpu_s']} | {c['memory_mb']} | "
        f"{', '.join(f'{n} {k}' for k, n in c['slurm_calls'].items()) or 'none'} |"
        for name, c in y["commands"].items()
    ]
    text = (
        f"""# Orchestration on a real Slurm

Made by `python -m tests.jobs.bench_slurm` on {m["date"]}: {m["cores"]} cores shared with other work (load
{m["load_before"]} before), {m["slurm"]}, Python {m["python"]}. Seconds are wall time under that load; CPU seconds are
the command's own.

## Submit to report, the real tiny model

{s["units"]} units in {s["tasks"]} tasks on {s["nodes"]} nodes (all on the same {m["cores"]} cores): submitted after
{s["submit_s"]} s, units done after {s["units_done_s"]} s, report after {s["report_s"]} s. Model loads:
{s["model_loads"]}, one a task. Of {s["task_s"]} task seconds {s["loading_s"]} went into importing torch and loading;
units took {100 * s["sampling_share"]:.0f} % of all task time, and {100 * s["sampling_share_after_load"]:.0f} % of the
time after loading.

## {y["units"]} synthetic units

| command | seconds | CPU s | peak MB | Slurm calls |
|---|---|---|---|---|
"""
        + "\n".join(rows)
        + f"""

Files: {y["files_a_unit"]} a unit (its images + 2); {y["files_a_task_before_it_runs"]} a task when it is queued (its
pickle, and its share of the submission's own), and 3 more when it has run (log, result, attempts). `submit` is measured
with an sbatch that queues nothing.
"""
    )
    return text + (faults(result["suite"], result["faults"]) if "faults" in result else "")


def faults(suite: dict, found: dict) -> str:
    """The section on what was killed, and what came of it."""
    rows = "\n".join(f"| {f['fault']} | {f['end']} | {f['recovery_s']:.0f} |" for f in found.values())
    return f"""
## Faults

Each on the real cluster, in the test suite (`SVDSTORY_FAULTS=FILE pytest tests/jobs/test_slurm_*.py`), many at once;
afterwards the report equals the undisturbed one, byte by byte, but for the seconds that each unit took. On {suite["date"]}
the suite took {suite["wall_s"]} s at a load of {suite["load"]} on two cores; its commands computed for
{suite["cpu_s_of_commands"]} s, its tasks for {suite["cpu_s_of_tasks"]} s.

| what was done | what happened | seconds to a complete report |
|---|---|---|
{rows}
"""


if __name__ == "__main__":
    sys.exit(main())
