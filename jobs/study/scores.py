"""One unit's numbers by one scorer, in a file of its own: RUN/scores/<scorer>/<key>.json, written by one rename."""

import json
import os
import socket
from pathlib import Path

from svdstory.pipeline.config.strict import canonical, digest
from svdstory.pipeline.metrics.scorer import Scorer, Values

SCHEMA = 1


def image_names(manifest: dict) -> list[str]:
    """0.png, 1.png, ... in order."""
    return [f"{i}.png" for i in range(manifest["images"])]


def image_hashes(manifest: dict) -> dict[str, str]:
    """File name -> sha256."""
    return {name: manifest["files"][name]["sha256"] for name in image_names(manifest)}


def score_path(run: Path, scorer: str, key: str) -> Path:
    return run / "scores" / scorer.replace(":", "-") / f"{key}.json"


def read_score(run: Path, scorer: str, key: str) -> dict | None:
    """The stored record, or None where there is none that parses."""
    try:
        record = json.loads(score_path(run, scorer, key).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if record.get("schema") == SCHEMA else None


def is_fresh(run: Path, key: str, scorer: Scorer, manifest: dict) -> bool:
    """Whether the stored numbers are of these images under this protocol."""
    record = read_score(run, scorer.name, key)
    return (
        record is not None
        and record["protocol_hash"] == protocol_hash(scorer.protocol)
        and record["images"] == image_hashes(manifest)
    )


def protocol_hash(protocol: dict) -> str:
    """12 hex digits that stand for a protocol in tables."""
    return digest(protocol)[:12]


def write_score(run: Path, key: str, scorer: Scorer, images: dict[str, str], values: Values) -> Path:
    """Write one unit's numbers by one rename."""
    path = score_path(run, scorer.name, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "schema": SCHEMA,
        "key": key,
        "scorer": scorer.name,
        "protocol": scorer.protocol,
        "protocol_hash": protocol_hash(scorer.protocol),
        "images": images,
        "values": values,
    }
    partial = path.with_name(f".{key}.{socket.gethostname()}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as file:
        file.write(canonical(record) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    return path
