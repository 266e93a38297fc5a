"""Slurm's commands, pretended: for what a test can show without a cluster."""

import os
from pathlib import Path


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
