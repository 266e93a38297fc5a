"""Embeddings are computed once per image, view and network, and kept in a few shard files beside the run."""

import os
import socket
import uuid
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from svdstory.pipeline.config.strict import digest
from svdstory.pipeline.metrics.preprocessing import in_threads
from svdstory.pipeline.metrics.regions import View
from svdstory.pipeline.metrics.scorer import Embedder

SHARD = 2048  # embeddings that make a shard: about 4 MB of CLIP's, 15 MB of DreamSim's ensemble


class EmbeddingCache:
    """Vectors (D,) by key = digest(view of an image, embedder's protocol). In memory only where no folder is given.

    Shards `embeddings-<host>-<pid>-<random>.npz` are read at the start and written whole under new names, so that
    processes share a folder without locks. A lost or damaged shard costs time, nothing else.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self._vectors: dict[str, np.ndarray] = {}
        self._unsaved: list[str] = []
        for shard in sorted(folder.glob("embeddings-*.npz")) if folder else ():
            self._read(shard)

    def embed(self, embedder: Embedder, views: Sequence[View | None]) -> list[np.ndarray | None]:
        """For each view (B, D) float32, None for None. What is not cached goes through the network in one call."""
        protocol = digest(embedder.protocol)
        keys = [[digest([key, protocol]) for key in view.keys] if view else [] for view in views]
        missing = {
            key: make
            for names, view in zip(keys, views)
            if view
            for key, make in zip(names, view.make)
            if key not in self._vectors
        }
        if missing:
            vectors = embedder.embed(in_threads(lambda make: make(), missing.values()))  # N D
            self._vectors.update(zip(missing, vectors.astype(np.float32), strict=True))
            self._unsaved += [key for key in missing if np.isfinite(self._vectors[key]).all()]
        if len(self._unsaved) >= SHARD:
            self.flush()
        return [np.stack([self._vectors[key] for key in names]) if view else None for names, view in zip(keys, views)]

    def flush(self) -> None:
        """Write what is not yet on disk as one new shard."""
        if not self.folder or not self._unsaved:
            return
        by_width = defaultdict(list)
        for key in self._unsaved:
            by_width[len(self._vectors[key])].append(key)
        arrays = {}
        for width, keys in by_width.items():
            arrays[f"keys_{width}"] = np.array(keys)  # N
            arrays[f"vectors_{width}"] = np.stack([self._vectors[key] for key in keys])  # N D
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"embeddings-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.npz"
        partial = self.folder / f".{name}.tmp"
        with open(partial, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self.folder / name)
        self._unsaved = []

    def _read(self, shard: Path) -> None:
        try:
            with np.load(shard, allow_pickle=False) as content:
                for name in [name for name in content.files if name.startswith("keys_")]:
                    self._vectors.update(zip(content[name].tolist(), content[name.replace("keys", "vectors")]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return  # as if it had never been written
