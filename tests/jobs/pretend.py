"""Slurm's commands, pretended: for what a test can show without a cluster."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from svdstory.jobs.study.process import Process
from svdstory.jobs.study.store import Attempt

NO_PROCESS = 2**22 + 1  # no kernel gives this pid


def pretend(monkeypatch, folder: Path, **commands: str) -> None:
    """Put commands first on the PATH: each by its name and the shell lines that it runs."""
    folder.mkdir(exist_ok=True)
    for name, script in commands.items():
        path = folder / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)
    if str(folder) not in os.environ["PATH"].split(os.pathsep):
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def element(name: str, job: str = "17", index: int | str = 0, state: str = "RUNNING") -> str:
    """A shell line that prints one line as squeue does. index: `N/A` for a job of its own."""
    return f"echo '{job}|{job}|{index}|{name}|{state}|None|n1|1:00'"


def process(host: str | None = None, pid: int = NO_PROCESS, place: str | None = None) -> Process:
    """A process that has ended, on this host or another; `place` is another container's."""
    here = Process.here()
    return replace(here, host=host or here.host, pid=pid, place=place or here.place)


def attempt(job: str = "local", restart: int = 0, host: str | None = None, pid: int = NO_PROCESS) -> Attempt:
    """An attempt of a process that has ended."""
    return Attempt(job, restart, process(host, pid))


def half_written(plan, run, device, signal_s, at, signalled) -> None:
    """A worker (node/interruption.py) that does not listen, and is killed in the middle of writing. Light: no torch."""
    draft = run / "tmp" / "draft"
    draft.mkdir(parents=True)
    (draft / "0.png").touch()
    signalled.value = time.time()
    os.kill(os.getpid(), signal.SIGUSR2)
