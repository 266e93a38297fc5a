"""The next report, built beside the present one and swapped in whole: a reader never sees half a report.

Each file is keyed by what it is made from (its inputs and the code that makes it). A file whose key is the present
report's is linked over instead of made. The keys lie in the report itself, report/.inputs.json, swapped with it.
"""

import json
import os
import shutil
import traceback
import zipfile
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from svdstory.jobs.study.process import Process
from svdstory.pipeline.config.strict import InputError, digest

KEYS = ".inputs.json"


class Draft:
    """A report in the making."""

    def __init__(self, run: Path, font: str | None = None):
        """font: the file that all of it is drawn with, None for svdstory's own."""
        self.report = run / "report"
        self.folder = run / f".report.{Process.here()}"
        self._font = [font, Path(font).stat().st_size] if font else []
        sweep(run)
        self.made: list[str] = []
        self.kept: list[str] = []
        self.broken: dict[str, str] = {}  # file -> why it could not be made
        self._keys: dict[str, list] = {}
        self._before = self._read_keys()
        if not self._before and self.report.exists() and any(self.report.iterdir()):
            raise InputError(
                f"{self.report}: holds files that svdstory did not make (no {KEYS}). The report would take their "
                "place: move them away, and run `svdstory reduce` again."
            )

    def add(
        self, name: str, inputs: Any, make: Callable[[], bytes], instead: Callable[[str], bytes] | None = None
    ) -> None:
        """A file of the report: `make` is asked for its bytes unless the present report has it from equal inputs.

        Where `make` fails, the file holds what `instead` makes of the cause, and is tried again by the next reduce: one
        file never costs the others. Without `instead` there is no report without this file, and the error is raised.
        """
        key = digest([name, inputs, code_version(), *self._font])
        before, target = self.report / name, self.folder / name
        known_key, size = self._before.get(name, ("", -1))
        target.parent.mkdir(parents=True, exist_ok=True)
        if known_key == key and _size(before) == size and link_or_copy(before, target):
            self.kept.append(name)
        else:
            try:
                content = make()
            except Exception as error:
                if instead is None or concerns_the_run(error):
                    raise
                key, self.broken[name] = "", cause_of(error)
                content = instead(self.broken[name])
            target.write_bytes(content)
            self.made.append(name)
        self._keys[name] = [key, target.stat().st_size]

    def read(self, name: str) -> bytes:
        """The content of a file that was added."""
        return (self.folder / name).read_bytes()

    def swap(self) -> None:
        """Put the draft in the present report's place. With nothing new, the present report stays as it is."""
        if not self.made and set(self._before) == set(self._keys):
            shutil.rmtree(self.folder)
            return
        (self.folder / KEYS).write_text(json.dumps(self._keys, indent=0, sort_keys=True), encoding="utf-8")
        old = self.folder.with_name(self.folder.name + ".old")
        while True:
            try:
                os.rename(self.report, old)
            except FileNotFoundError:
                pass
            try:
                os.rename(self.folder, self.report)
                break
            except OSError:  # another reduce put its own here in between
                if not self.report.exists():
                    raise
            shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read_keys(self) -> dict[str, list]:
        try:
            return json.loads((self.report / KEYS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}


def sweep(run: Path) -> None:
    """Remove what killed processes of this host left behind; a report that one had just moved away comes back."""
    for path in run.glob(".report.*"):
        process = Process.of(path.name.removeprefix(".report.").removesuffix(".old"))
        if process and process.is_dead:
            if path.suffix == ".old" and not (run / "report").exists():
                os.rename(path, run / "report")
            else:
                shutil.rmtree(path, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> bool:
    """Whether the file is there now: another reduce may have taken the source away."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        return False
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
    return True


def concerns_the_run(error: Exception) -> bool:
    """Whether an error is about the run's files or the disk, not about what was being drawn.

    FreeType's and Pillow's own OSErrors have no errno.
    """
    return isinstance(error, (InputError, zipfile.BadZipFile)) or (
        isinstance(error, OSError) and error.errno is not None
    )


def cause_of(error: Exception) -> str:
    """`ValueError: math domain error (scatter.py, line 77)`"""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno})"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


@lru_cache
def code_version() -> str:
    """A hash of the code and templates that make reports: other code makes its files anew."""
    total = sha256()
    folder = Path(__file__).parent
    code = [p for p in folder.rglob("*") if p.suffix in (".py", ".j2", ".css", ".js")]
    for path in sorted([*code, folder / "claims.yaml"]):
        total.update(path.read_bytes())
    return total.hexdigest()
