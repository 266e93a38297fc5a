"""Embeddings are computed once per image, view and network, and kept in a few shard files beside the run.

A shard `embeddings-<host>-<pid>-<random>.safetensors` holds, for each width D of its vectors, the sorted keys
(`keys_D`: N 24, ASCII) and the vectors (`vectors_D`: N D). Only keys are kept in memory; a vector is read when its key
is asked for.
"""

import os
import socket
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from svdstory.pipeline.config.strict import digest
from svdstory.pipeline.metrics.preprocessing import in_threads
from svdstory.pipeline.metrics.regions import View
from svdstory.pipeline.metrics.scorer import Embedder

SHARD = 2048  # embeddings that make a shard: about 4 MB of CLIP's, 15 MB of DreamSim's ensemble
DIGITS = 24  # of a key's sha256: 96 bits


@dataclass(frozen=True)
class Shelf:
    """The vectors of one width in one shard. keys: (N,) bytes, sorted; row i of `vectors_<width>` belongs to keys[i]."""

    shard: Path
    width: int
    keys: np.ndarray

    def find(self, wanted: np.ndarray) -> dict[str, np.ndarray]:
        """Key -> vector (D,) of those that are here; none where the file has gone or is damaged."""
        rows = np.searchsorted(self.keys, wanted).clip(max=len(self.keys) - 1)
        here = self.keys[rows] == wanted
        if not here.any():
            return {}
        try:
            with safe_open(self.shard, framework="numpy") as content:
                vectors = content.get_slice(f"vectors_{self.width}")
                return {key.decode(): vectors[row : row + 1][0] for key, row in zip(wanted[here], rows[here].tolist())}
        except (OSError, SafetensorError):
            return {}


class EmbeddingCache:
    """Vectors (D,) by key = digest(view of an image, embedder's protocol). In memory only where no folder is given.

    Shards are written whole under new names, so that processes share a folder without locks. A lost or damaged shard
    costs time, nothing else. `others`: whether to look into the shards that other processes have left there.
    """

    def __init__(self, folder: Path | None = None, others: bool = True):
        self.folder = folder
        self._unsaved: dict[str, np.ndarray] = {}
        self._shelves: list[Shelf] = []
        for shard in sorted(folder.glob("embeddings-*.safetensors")) if folder and others else ():
            self._shelves += _shelves(shard)

    def embed(self, embedder: Embedder, views: Sequence[View | None]) -> list[np.ndarray | None]:
        """For each view (B, D) float32, None for None. What is not cached goes through the network in one call."""
        protocol = digest(embedder.protocol)
        keys = [[digest([key, protocol])[:DIGITS] for key in view.keys] if view else [] for view in views]
        found = self._find([key for names in keys for key in names])
        missing = {
            key: make
            for names, view in zip(keys, views)
            if view
            for key, make in zip(names, view.make)
            if key not in found
        }
        if missing:
            vectors = embedder.embed(in_threads(lambda make: make(), missing.values()))  # N D
            made = dict(zip(missing, vectors.astype(np.float32), strict=True))
            found |= made
            self._unsaved |= {key: vector for key, vector in made.items() if np.isfinite(vector).all()}
        if len(self._unsaved) >= SHARD:
            self.flush()
        return [np.stack([found[key] for key in names]) if view else None for names, view in zip(keys, views)]

    def flush(self) -> None:
        """Write what is not yet on disk as one new shard."""
        if not self.folder or not self._unsaved:
            return
        by_width = defaultdict(list)
        for key in sorted(self._unsaved):
            by_width[len(self._unsaved[key])].append(key)
        arrays = {}
        for width, keys in by_width.items():
            arrays[f"keys_{width}"] = np.array(keys, f"S{DIGITS}").view(np.uint8).reshape(-1, DIGITS)
            arrays[f"vectors_{width}"] = np.stack([self._unsaved[key] for key in keys])
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"embeddings-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.safetensors"
        partial = self.folder / f".{name}.tmp"
        with open(partial, "wb") as file:
            file.write(save(arrays))
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self.folder / name)
        self._shelves += _shelves(self.folder / name)
        self._unsaved = {}

    def _find(self, keys: Sequence[str]) -> dict[str, np.ndarray]:
        found = {key: self._unsaved[key] for key in keys if key in self._unsaved}
        for shelf in self._shelves:
            wanted = np.array([key for key in dict.fromkeys(keys) if key not in found], f"S{DIGITS}")
            if not len(wanted):
                break
            found |= shelf.find(wanted)
        return found


def _shelves(shard: Path) -> list[Shelf]:
    """The shard's keys; none of one that cannot be read: as if it had never been written."""
    try:
        with safe_open(shard, framework="numpy") as content:
            widths = [int(name.removeprefix("keys_")) for name in content.keys() if name.startswith("keys_")]
            keys = {width: content.get_tensor(f"keys_{width}") for width in widths}  # N 24
        return [Shelf(shard, width, of.view(f"S{DIGITS}").ravel()) for width, of in keys.items() if len(of)]
    except (OSError, ValueError, SafetensorError):
        return []
