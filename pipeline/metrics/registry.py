"""Scorers by name. To add one: a file with its class, an entry here and in names.py, its files in staging.py, a test."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from . import staging
from .cache import EmbeddingCache
from .names import Fill, parts
from .scorer import RANDOM, Embedder, Scorer


def load_scorer(name: str, device: str = "cpu", folder: Path | None = None, cache: EmbeddingCache | None = None,
                allow_random: bool = False, batch: int = 64) -> Scorer:
    """The scorer of that name, with its network on `device`.

    folder        staged weights; by default SVDSTORY_WEIGHTS or ~/.cache/svdstory. Nothing is ever fetched here
    cache         where embeddings are kept; by default in memory
    allow_random  seeded random weights where files are missing, marked in the protocol
    batch         images that go through the network at once

    Raises InputError for an unknown name, and for missing weights: each file and the command that fetches it.
    """
    family, backbone, fill = parts(name)
    folder = folder or staging.default_folder()
    if not allow_random:
        staging.require(name, folder)
    cache = cache or EmbeddingCache()
    staged = backbone != "tiny" and not staging.missing(name, folder)
    if family == "layout":
        return _layout(name, backbone, folder if staged else None, device, batch)
    build = _clip if backbone in ("clip", "tiny") else _dreamsim
    embedder = build(backbone, folder if staged else None, name, device, batch)
    return _scorer_class(family)(name, embedder, cache, fill)


def _scorer_class(family: str) -> Callable[[str, Embedder, EmbeddingCache, Fill], Scorer]:
    if family == "clipscore":
        from .clipscore import ClipScore

        return lambda name, embedder, cache, fill: ClipScore(name, embedder, cache)
    if family == "background":
        from .background import Background

        return Background
    from .consistency import Consistency

    return Consistency


def _clip(backbone: str, folder: Path | None, name: str, device: str, batch: int) -> Embedder:
    from .clip import ClipEmbedder

    if folder is None:
        return ClipEmbedder(None, None, device, batch, tiny=backbone == "tiny")
    return ClipEmbedder(staging.CLIP_FILES[0].found(folder), staging.weights_hash(name, folder), device, batch)


def _dreamsim(backbone: str, folder: Path | None, name: str, device: str, batch: int) -> Embedder:
    from .dreamsim_embedder import DreamSimEmbedder

    if folder is not None:
        return DreamSimEmbedder(backbone, folder / "dreamsim", staging.weights_hash(name, folder), device, batch)
    from .random_dreamsim import write_random_dreamsim

    with tempfile.TemporaryDirectory(prefix="svdstory-random-") as place:
        write_random_dreamsim(backbone, Path(place))
        return DreamSimEmbedder(backbone, Path(place), RANDOM, device, batch)


def _layout(name: str, backbone: str, folder: Path | None, device: str, batch: int) -> Scorer:
    from .dino import staged_or_random
    from .layout import Layout

    checkpoint = staging.DINO_FILES[0].found(folder) if folder else None
    network, protocol = staged_or_random(checkpoint, tiny=backbone == "tiny", device=device, batch=batch)
    protocol["weights"] = staging.weights_hash(name, folder) if folder else RANDOM
    return Layout(name, network, protocol)
