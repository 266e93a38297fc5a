"""A copy of the code beside the run: what was submitted is what runs, whatever is edited while it waits.

RUN/code/<sha12>/svdstory/{jobs,pipeline,prompts,slurm}
"""

import hashlib
import os
import secrets
import shutil
from importlib import import_module
from pathlib import Path

PACKAGES = ("jobs", "pipeline", "prompts", "slurm")


def code_name() -> str:
    """The name of the present code's copy: it stands for the content."""
    return _digest(_files())[:12]


def freeze(run: Path) -> Path:
    """Copy svdstory's own files into the run, once for each content. Returns the folder to put on PYTHONPATH."""
    files = _files()
    target = run / "code" / _digest(files)[:12]
    if target.is_dir():  # whole: it came by one rename, and goes by one (clean.py)
        return target
    draft = run / "code" / f".{target.name}.{secrets.token_hex(4)}"
    for name, source in files.items():
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, draft / name)
    (draft / "svdstory" / "__init__.py").touch()  # a package of its own: it hides any installed one entirely
    try:
        draft.rename(target)
    except OSError:  # another launcher was quicker with the same content
        shutil.rmtree(draft)
    return target


def _files() -> dict[str, Path]:
    """Every file of the packages, by its path below the folder that goes onto PYTHONPATH."""
    files = {}
    for package in PACKAGES:
        root = Path(import_module(f"svdstory.{package}").__file__).parent
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            for name in sorted(names):
                path = Path(folder, name)
                files[f"svdstory/{package}/{path.relative_to(root)}"] = path
    return files


def _digest(files: dict[str, Path]) -> str:
    total = hashlib.sha256()
    for name, path in files.items():
        total.update(f"{name}\0{path.stat().st_size}\0".encode())
        total.update(path.read_bytes())
    return total.hexdigest()
