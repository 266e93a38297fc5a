"""Scorers by name. To add one: a file with its class, an entry here, its weight files in staging.py, a test."""

from pathlib import Path

from ..strict import InputError, nearest
from . import staging
from .cache import EmbeddingCache
from .scorer import Scorer
from .views import FILLS, Fill

NAMES = ("clipscore", "clip-i", "clipscore:tiny", "clip-i:tiny")


def load_scorer(name: str, device: str = "cpu", folder: Path | None = None, cache: EmbeddingCache | None = None,
                allow_random: bool = False, fill: Fill = "noise", batch: int = 64) -> Scorer:
    """The scorer of that name, with its network on `device`.

    folder        staged weights; by default SVDSTORY_WEIGHTS or ~/.cache/svdstory. Nothing is ever fetched here
    cache         where embeddings are kept; by default in memory
    allow_random  seeded random weights where files are missing, marked in the protocol
    fill          what stands for the part of an image that is left out: noise or flat

    Raises InputError for an unknown name, and for missing weights: each file and the command that fetches it.
    """
    if name not in NAMES:
        raise InputError(f"unknown scorer {name!r}{nearest(name, list(NAMES))}. Known: {', '.join(NAMES)}.")
    if fill not in FILLS:
        raise InputError(f"unknown fill {fill!r}{nearest(fill, list(FILLS))}. Known: {', '.join(FILLS)}.")
    folder = folder or staging.default_folder()
    staged = not staging.missing(name, folder)
    if not staged and not allow_random:
        staging.require(name, folder)
    cache = cache or EmbeddingCache()
    family, _, kind = name.partition(":")
    if family == "clipscore":
        from .clipscore import ClipScore

        return ClipScore(name, _clip(kind, staged, folder, device, batch), cache)
    from .consistency import Consistency

    return Consistency(name, _clip(kind, staged, folder, device, batch), cache, fill)


def _clip(kind: str, staged: bool, folder: Path, device: str, batch: int):
    from .clip import ClipEmbedder

    if kind == "tiny":
        return ClipEmbedder(None, None, device, batch, tiny=True)
    if not staged:
        return ClipEmbedder(None, None, device, batch)
    return ClipEmbedder(staging.CLIP_FILES[0].found(folder), staging.weights_hash("clipscore", folder), device, batch)
