"""A benchmark's record: rows, what they were measured on, a table for people."""

import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from svdstory.pipeline.models.device import device_name


def environment(device: str) -> dict:
    """Versions, device, processor, load and git revision."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "device": device_name(device),
        "processor": processor(),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("svdstory", "torch", "diffusers")},
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "git": _revision(),
    }


def processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "cpu"


def clock(device: str) -> float:
    """Seconds now: of the device's finished work on a GPU; on a CPU of this process's CPU time if torch has one thread,
    so that other processes on a shared machine don't count, and of the wall if it has more.
    """
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def save(name: str, rows: list[dict], device: str, folder: Path, notes: str = "") -> Path:
    """Write NAME-DEVICE.json and .md into the folder, print the table, return the JSON's path."""
    folder.mkdir(parents=True, exist_ok=True)
    env = environment(device)
    path = folder / f"{name}-{device.split(':')[0]}.json"
    path.write_text(
        json.dumps(
            {
                "benchmark": name,
                "command": "svdstory " + " ".join(sys.argv[1:]),
                "environment": env,
                "notes": notes,
                "rows": rows,
            },
            indent=1,
            ensure_ascii=False,
        )
        + "\n",
        encoding="utf-8",
    )
    text = table(rows)
    about = ", ".join(f"{k} {v}" for k, v in env.items())
    path.with_suffix(".md").write_text(f"# bench {name}\n\n{notes}\n\n{text}\n\n{about}\n", encoding="utf-8")
    print(text)
    return path


def table(rows: list[dict]) -> str:
    """A Markdown table; every row's columns, blank where a row has none."""
    if not rows:
        return "(no rows)"
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns] + [[_text(row.get(c, "")) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths)) + " |" for line in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def _text(value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _revision() -> str:
    try:
        return subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"


def bench_device(wanted: str | None, threads: int | None = 1) -> str:
    """`wanted`, or a GPU if there is one, else the CPU with so many threads (None: torch's own number).

    One thread: processor time then means seconds, whatever else runs on the machine.
    """
    chosen = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    if chosen == "cpu" and threads:
        torch.set_num_threads(threads)
    return chosen
