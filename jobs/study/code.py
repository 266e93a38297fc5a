"""Which code this is: one hash of svdstory's own files, and the git revision where there is or was one.

The hash is the same for a checkout, for what is installed from it, and for a run's frozen copy of it (cluster/freeze.py),
which also carries the revision that it was copied from: what was submitted can be told from what made a unit.
"""

import hashlib
import json
import os
import subprocess
import sys
from functools import lru_cache
from importlib import import_module, metadata
from pathlib import Path

PACKAGES = ("jobs", "pipeline", "prompts", "slurm")
NOT_CODE = (".md", ".log", ".pyc")  # an installed svdstory lacks the rooms' pages
RECORD = "code.json"  # of a frozen copy, beside its packages
DIGITS = 12


@lru_cache(maxsize=1)
def identity() -> dict[str, str]:
    """`hash`: 12 hex digits that stand for the files' content. `revision`: git's, with `+changes` if any, or empty."""
    record = root() / RECORD
    if record.is_file():
        return json.loads(record.read_text(encoding="utf-8"))
    total = hashlib.sha256()
    for name, path in files().items():
        total.update(f"{name}\0{path.stat().st_size}\0".encode())
        total.update(path.read_bytes())
    return {"hash": total.hexdigest()[:DIGITS], "revision": _revision(root())}


def root() -> Path:
    """The folder that holds the packages."""
    return Path(import_module("svdstory.jobs").__file__).resolve().parents[1]


def files() -> dict[str, Path]:
    """Every file of the packages, by its path below the folder that goes onto PYTHONPATH."""
    found = {}
    for package in PACKAGES:
        place = Path(import_module(f"svdstory.{package}").__file__).parent
        for folder, folders, names in os.walk(place):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            for name in sorted(names):
                if not name.endswith(NOT_CODE):
                    path = Path(folder, name)
                    found[f"svdstory/{package}/{path.relative_to(place)}"] = path
    return found


def _revision(place: Path) -> str:
    def git(*words: str) -> str:
        try:
            return subprocess.run(["git", "-C", str(place), *words], capture_output=True, text=True).stdout.strip()
        except OSError:  # no git here
            return ""

    if not (place / ".git").exists():
        return ""
    head = git("rev-parse", "HEAD")
    return head + ("+changes" if head and git("status", "--porcelain", "--untracked-files=no") else "")


@lru_cache
def versions() -> dict[str, str]:
    """Versions of what computes pixels."""
    names = ("svdstory", "torch", "diffusers", "transformers", "safetensors", "pillow")
    return {name: metadata.version(name) for name in names} | {"python": sys.version.split()[0]}
