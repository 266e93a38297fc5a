"""The store: one folder per finished unit, published atomically. The truth about a run is what lies here.

RUN/units/<2 hex>/<key>/    0.png 1.png ... tensors.safetensors manifest.json
RUN/tmp/<key>.<attempt>/    what is being written
RUN/failures/<key>.<attempt>.json   a failed attempt and its cause
RUN/corrupt/<key>.<n>/      damaged units, moved aside when they are made again
RUN/subjects/<2 hex>/<key>/ tuned subjects, on a shelf of their own: a Store like the units'

No locks and no replaced files: a unit appears by one rename onto a name that does not exist. Whoever comes second
finds it there, verifies it and discards its own.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from svdstory.jobs.study.process import Process

MANIFEST = "manifest.json"
TAKEN = (errno.EEXIST, errno.ENOTEMPTY)  # a rename's answer where another was quicker; all others are failures
KEY = "[0-9a-f]{24}"  # a unit's, as a regular expression
SCHEMA = 1


@dataclass(frozen=True)
class Attempt:
    """Who is at work: job (or `local`), restart count, process. Its text names temporary folders."""

    job: str
    restart: int
    process: Process

    @classmethod
    def here(cls) -> "Attempt":
        env = os.environ
        job = env.get("SLURM_ARRAY_JOB_ID") or env.get("SLURM_JOB_ID") or "local"
        if "SLURM_ARRAY_TASK_ID" in env:
            job += f"_{env['SLURM_ARRAY_TASK_ID']}"
        return cls(job, int(env.get("SLURM_RESTART_COUNT") or 0), Process.here())

    @classmethod
    def of(cls, text: str) -> "Attempt | None":
        """The attempt whose text this is. None for a text that is none's."""
        found = re.fullmatch(r"(local|\d+(?:_\d+)?)-r(\d+)-(.+)", text)
        process = Process.of(found[3]) if found else None
        return cls(found[1], int(found[2]), process) if process else None

    @classmethod
    def of_draft(cls, name: str) -> "Attempt | None":
        """The attempt that writes RUN/tmp/`name`, or RUN/failures/`name`. None for a name that is not a draft's."""
        found = re.fullmatch(rf"(?:\.gone\.|\.)?{KEY}\.(.+)", name)
        return cls.of(found[1]) if found else None

    def __str__(self) -> str:
        return f"{self.job}-r{self.restart}-{self.process}"

    @property
    def host(self) -> str:
        return self.process.host


@dataclass(frozen=True)
class Failure:
    """One failed attempt. cause: out of memory, timeout, not finite, bad node, disk full, bug."""

    key: str
    cause: str
    message: str
    attempt: str
    host: str
    when: float


class Store:
    """The units of one run folder; or what else is made once and shared, on its own shelf."""

    def __init__(self, run: Path, shelf: str = "units"):
        self.run, self.shelf = Path(run), shelf

    def folder(self, key: str) -> Path:
        return self.run / self.shelf / key[:2] / key

    def manifest(self, key: str) -> dict:
        """Raises FileNotFoundError for a unit that isn't there, ValueError for a manifest that doesn't parse."""
        return json.loads((self.folder(key) / MANIFEST).read_text(encoding="utf-8"))

    def problem(self, key: str, deep: bool = False) -> str | None:
        """Why the unit does not count as finished, or None. `deep` compares every file's sha256."""
        folder = self.folder(key)
        try:
            manifest = self.manifest(key)
            files = manifest["files"]
        except FileNotFoundError:
            return "no manifest" if folder.exists() else "missing"
        except (ValueError, KeyError, OSError) as error:
            return f"manifest unreadable ({error.__class__.__name__}: {error})"
        for name, expected in files.items():
            path = folder / name
            try:
                size = path.stat().st_size
            except OSError as error:
                return f"{name}: {error.strerror}"
            if size != expected["size"]:
                return f"{name}: {size} bytes, expected {expected['size']}"
            if deep and hashlib.sha256(path.read_bytes()).hexdigest() != expected["sha256"]:
                return f"{name}: content differs from its sha256"
        return None

    def is_finished(self, key: str) -> bool:
        return self.problem(key) is None

    def finished(self, keys: Iterable[str]) -> set[str]:
        """Those of the units that are finished."""
        keys, at_once = list(keys), 8  # a network file system answers many questions at once
        with ThreadPoolExecutor(at_once) as pool:
            shares = pool.map(lambda n: [key for key in keys[n::at_once] if self.is_finished(key)], range(at_once))
            return {key for share in shares for key in share}

    def present(self) -> set[str]:
        """Keys of all unit folders, finished or damaged: one listing for each two hex digits."""
        keys: set[str] = set()
        try:
            shards = list(os.scandir(self.run / self.shelf))
        except FileNotFoundError:
            return keys
        for shard in shards:
            keys.update(entry.name for entry in os.scandir(shard.path))
        return keys

    def publish(self, key: str, files: dict[str, bytes], manifest: dict, attempt: Attempt) -> bool:
        """Publish a unit; True if it is this attempt's, False if another one's was there and is sound.

        Files and manifest are written and synced aside, then appear by one rename. Raises OSError (disk full, read
        only) with nothing published and nothing left behind.
        """
        temporary = self.run / "tmp" / f"{key}.{attempt}"
        final = self.folder(key)
        try:
            temporary.mkdir(parents=True)
            for name, content in files.items():
                _write(temporary / name, content)
            listed = {
                name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                for name, content in files.items()
            }
            whole = {"schema": SCHEMA, "key": key, **manifest, "attempt": str(attempt), "files": listed}
            _write(temporary / MANIFEST, json.dumps(whole, indent=1, ensure_ascii=False, sort_keys=True).encode())
            _sync_folder(temporary)
            final.parent.mkdir(parents=True, exist_ok=True)
            return self._appear(key, temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _appear(self, key: str, temporary: Path, final: Path) -> bool:
        while True:
            try:
                os.rename(temporary, final)
                _sync_folder(final.parent)
                return True
            except OSError:
                if not final.exists():
                    raise
            if self.problem(key, deep=True) is None:
                return False
            self.set_aside(key)

    def set_aside(self, key: str) -> None:
        """Move a damaged unit to RUN/corrupt, where nothing reads it. Raises OSError where it cannot be moved."""
        corrupt = self.run / "corrupt"
        corrupt.mkdir(exist_ok=True)
        for n in range(1000):
            try:
                os.rename(self.folder(key), corrupt / f"{key}.{n}")
                return
            except FileNotFoundError:  # another attempt moved it
                return
            except OSError as error:
                if error.errno not in TAKEN:
                    raise  # else that number is taken
        raise OSError(errno.EEXIST, f"1000 damaged units {key} lie there: `svdstory clean` removes them", str(corrupt))

    def record_failure(self, key: str, cause: str, message: str, attempt: Attempt) -> Failure:
        """One small file that says why an attempt failed. Raises OSError if it cannot be written."""
        failure = Failure(key, cause, message[-4000:], str(attempt), attempt.host, time.time())
        folder = self.run / "failures"
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{key}.{attempt}"
        _write(partial, json.dumps(failure.__dict__, ensure_ascii=False).encode())
        os.rename(partial, folder / f"{key}.{attempt}.json")
        return failure

    def failures(self) -> dict[str, list[Failure]]:
        """Key -> its failed attempts, oldest first. Unreadable records are left out."""
        found: dict[str, list[Failure]] = {}
        for path in (self.run / "failures").glob("*.json"):
            try:
                failure = Failure(**json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, TypeError, OSError):
                continue
            found.setdefault(failure.key, []).append(failure)
        return {key: sorted(list_, key=lambda f: f.when) for key, list_ in found.items()}

    def failed(self) -> set[str]:
        """Keys of the units with failed attempts, by the records' names alone: one listing, nothing is read."""
        try:
            names = os.listdir(self.run / "failures")
        except FileNotFoundError:
            return set()
        return {name.partition(".")[0] for name in names if name.endswith(".json") and not name.startswith(".")}

    def sweep(self) -> list[str]:
        """Remove what processes that are known to be dead left in RUN/tmp. Returns the names removed."""
        removed = []
        for path in (self.run / "tmp").glob("*"):
            attempt = Attempt.of_draft(path.name)
            if attempt and attempt.process.is_dead:
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path.name)
        return removed


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
