"""A run's numbers, in shards: RUN/scores/<attempt>.<random>.jsonl, each of many units by all scorers.

The first line of a shard says what it holds, so that status and submit read no more than that; each further line is
one unit's numbers by one scorer, and stands for itself: of a damaged shard the whole lines count.

    {"schema": 1, "at": ..., "protocols": {hash: protocol}, "scored": {scorer: [key, ...]}, "failed": {...}}
    {"scorer": ..., "key": ..., "protocol": hash, "images": digest of the images' sha256, "values": {...}}

A shard is written aside, synced and renamed onto a name that nothing else has; it never changes. Scoring again adds
shards: of a unit's records, the newest under one protocol and of the present images counts.
"""

import json
import os
import re
import secrets
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdstory.jobs.study.store import Attempt
from svdstory.pipeline.config.strict import canonical, digest

if TYPE_CHECKING:  # numpy and PIL: status and submit need neither
    from svdstory.pipeline.metrics.scorer import Scorer, Values

SCHEMA = 1
PUBLISH_S = 300.0  # what a kill may cost: numbers wait so long at most before they are published
WHOLE = ("background_looks",)  # lists that numbers are still made of, beside another unit's
FILES_A_TASK = 3  # as a rule: a shard, what a stop published before it, and one of embeddings


@dataclass(frozen=True, slots=True)
class Score:
    """One unit's numbers by one scorer. `images` stands for the pictures that were measured, `at` is in seconds."""

    protocol: str
    images: str
    values: dict[str, Any]
    at: float


@dataclass
class Scores:
    """What some shards hold. `records`: (scorer, key) -> its records, the newest first."""

    protocols: dict[str, dict] = field(default_factory=dict)
    records: dict[tuple[str, str], list[Score]] = field(default_factory=lambda: defaultdict(list))
    failed: dict[tuple[str, str], str] = field(default_factory=dict)  # without any record: the cause

    @property
    def scorers(self) -> list[str]:
        return sorted({scorer for scorer, _ in self.records})

    def of(self, scorer: str, key: str, protocol: str, images: str | None = None) -> Score | None:
        """The newest record under the protocol, and of these images where they are given."""
        records = self.records.get((scorer, key), ())
        return next((r for r in records if r.protocol == protocol and images in (None, r.images)), None)

    def protocol(self, scorer: str, keys: Iterable[str]) -> str:
        """The hash of the protocol that most of the units were scored under; of several, the newest. Empty: none."""
        counted, newest = Counter(), {}
        for key in keys:
            records = self.records.get((scorer, key), ())
            counted.update({record.protocol for record in records})
            for record in records:
                newest[record.protocol] = max(record.at, newest.get(record.protocol, 0.0))
        return max(counted, key=lambda h: (counted[h], newest[h], h), default="")


class Shard:
    """Numbers and failures that wait to be published together. Threads may share it."""

    def __init__(self, run: Path):
        self.folder = run / "scores"
        self._lock = threading.RLock()
        self._clear()

    def _clear(self) -> None:
        self._protocols: dict[str, dict] = {}
        self._scored: dict[str, list[str]] = defaultdict(list)
        self._failed: dict[str, dict[str, str]] = defaultdict(dict)
        self._lines: list[str] = []
        self._since = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether numbers have waited for PUBLISH_S."""
        return bool(self._lines) and time.monotonic() - self._since > PUBLISH_S

    def add(self, key: str, scorer: "Scorer", images: str, values: "Values") -> None:
        """Take one unit's numbers."""
        with self._lock:
            record = {"scorer": scorer.name, "key": key, "protocol": protocol_hash(scorer.protocol), "images": images}
            self._since = self._since if self._lines else time.monotonic()
            self._protocols[record["protocol"]] = scorer.protocol
            self._scored[scorer.name].append(key)
            self._lines.append(canonical({**record, "values": values}))

    def fail(self, key: str, scorer: str, cause: str) -> None:
        """Take down that a scorer has no numbers for a unit, and why."""
        with self._lock:
            self._failed[scorer][key] = cause

    def publish(self) -> Path | None:
        """Make what waits visible, all at once. None where nothing waits. Raises OSError, and keeps what waits."""
        with self._lock:
            if not self._lines and not self._failed:
                return None
            head = {"schema": SCHEMA, "at": time.time(), "protocols": self._protocols}
            head |= {"scored": self._scored, "failed": self._failed}
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{Attempt.here()}.{secrets.token_hex(4)}.jsonl"
            draft = path.with_name(f".{path.name}")
            try:
                with draft.open("x", encoding="utf-8") as file:
                    file.writelines(f"{line}\n" for line in [canonical(head), *self._lines])
                    file.flush()
                    os.fsync(file.fileno())
                draft.rename(path)
            finally:
                draft.unlink(missing_ok=True)
            self._clear()
            return path


def read_scores(run: Path, names: Iterable[str] | None = None) -> Scores:
    """What the run's shards hold, or those of these `names`. Of values, single numbers (not each pair's) and WHOLE."""
    scores, failed = Scores(), []
    for path in shard_paths(run, names):
        lines = _lines(path)
        head = next(lines, {})
        if head.get("schema") != SCHEMA:
            continue
        scores.protocols |= head["protocols"]
        failed += [(head["at"], (scorer, key), cause) for scorer, key, cause in _failures(head)]
        for line in lines:
            if line.get("protocol") in scores.protocols:
                numbers = {
                    name: value
                    for name, value in line["values"].items()
                    if name in WHOLE or not isinstance(value, list)
                }
                record = Score(line["protocol"], line["images"], numbers, head["at"])
                scores.records[line["scorer"], line["key"]].append(record)
    for records in scores.records.values():
        records.sort(key=lambda record: -record.at)
    scores.failed = {place: cause for _, place, cause in sorted(failed) if place not in scores.records}
    return scores


@dataclass
class Standing:
    """Which units each scorer has numbers for, and which not and why: told by the shards' first lines."""

    scored: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    failed: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    shards: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # key -> names of its shards

    def lacking(self, key: str, scorers: Iterable[str]) -> list[str]:
        """The scorers that have no numbers for the unit."""
        return [name for name in scorers if key not in self.scored[name]]


def read_standing(run: Path) -> Standing:
    """What all shards hold, by their first lines."""
    standing, failed = Standing(), []
    for path in shard_paths(run):
        head = next(_lines(path), {})
        if head.get("schema") != SCHEMA:
            continue
        for scorer, keys in head["scored"].items():
            standing.scored[scorer].update(keys)
        for key in {key for keys in head["scored"].values() for key in keys}:
            standing.shards[key].append(path.name)
        failed += [(head["at"], scorer, key, cause) for scorer, key, cause in _failures(head)]
    for _, scorer, key, cause in sorted(failed):
        if key not in standing.scored[scorer]:
            standing.failed[scorer][key] = cause
    return standing


def shard_paths(run: Path, names: Iterable[str] | None = None) -> list[Path]:
    """The run's shards, or those of these names that are there."""
    folder = run / "scores"
    if names is None:
        return sorted(path for path in folder.glob("*.jsonl") if not path.name.startswith("."))
    return [folder / name for name in sorted(set(names)) if (folder / name).is_file()]


def writer_of(name: str) -> Attempt | None:
    """The attempt that writes the draft of a shard, RUN/scores/`name`. None for a name that is not a draft's."""
    found = re.fullmatch(r"\.(.+)\.[0-9a-f]{8}\.jsonl", name)
    return Attempt.of(found[1]) if found else None


def shards_of(run: Path, job: str) -> list[str]:
    """Names of the shards that earlier turns of a job have published: one listing, of a folder that holds all tasks'."""
    try:
        names = os.listdir(run / "scores")
    except FileNotFoundError:
        return []
    return sorted(name for name in names if name.startswith(f"{job}-r") and name.endswith(".jsonl"))


def _failures(head: dict) -> Iterator[tuple[str, str, str]]:
    return ((scorer, key, cause) for scorer, causes in head["failed"].items() for key, cause in causes.items())


def _lines(path: Path) -> Iterator[dict]:
    """The lines that parse, one by one."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    content = json.loads(line)
                except ValueError:
                    continue
                if isinstance(content, dict):
                    yield content
    except OSError:
        return


def image_names(manifest: dict) -> list[str]:
    """0.png, 1.png, ... in order."""
    return [f"{i}.png" for i in range(manifest["images"])]


def image_hashes(manifest: dict) -> dict[str, str]:
    """File name -> sha256."""
    return {name: manifest["files"][name]["sha256"] for name in image_names(manifest)}


def images_digest(hashes: dict[str, str], beside: Sequence[str] = ()) -> str:
    """24 hex digits that stand for a unit's images, and the reference pictures (sha256) that they are set `beside`: a unit
    that looks at none has the same key with and without."""
    return digest({**hashes, "references": list(beside)} if beside else hashes)[:24]


def protocol_hash(protocol: dict) -> str:
    """12 hex digits that stand for a protocol."""
    return digest(protocol)[:12]
