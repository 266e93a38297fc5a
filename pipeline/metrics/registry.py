"""Scorers by name. To add one: a file with its class, an entry here and in names.py, files in staging.py, a test."""

from pathlib import Path

from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.metrics import staging
from svdstory.pipeline.metrics.cache import EmbeddingCache
from svdstory.pipeline.metrics.names import parts
from svdstory.pipeline.metrics.scorer import Embedder, Scorer


def load_scorer(
    name: str,
    device: str = "cpu",
    folder: Path | None = None,
    cache: EmbeddingCache | None = None,
    allow_random: bool = False,
    batch: int = 64,
    networks: dict[str, Embedder] | None = None,
) -> Scorer:
    """The scorer of that name, with its network on `device`, built when it is first needed.

    folder        staged weights; by default SVDSTORY_WEIGHTS or ~/.cache/svdstory. Nothing is ever fetched here
    cache         where embeddings are kept; by default in memory
    allow_random  seeded random weights where files are missing, marked in the protocol
    batch         images that go through the network at once
    networks      embedders by backbone, filled here: scorers that share one load it once

    Raises InputError for an unknown name, and for missing weights: each file and the command that fetches it.
    """
    family, backbone, fill = parts(name)
    folder, cache = folder or staging.default_folder(), cache or EmbeddingCache()
    if family == "world":
        from svdstory.pipeline.metrics.ground_truth import World

        return World(name, *_shipped(name, "judge.safetensors"), device)
    if backbone == "miniature":
        from svdstory.pipeline.metrics.clipscore import ClipScore
        from svdstory.pipeline.metrics.world_clip_embedder import WorldClipEmbedder

        return ClipScore(name, WorldClipEmbedder(*_shipped(name, "clip.safetensors"), device, batch), cache)
    if not allow_random:
        staging.require(name, folder)
    staged = bool(staging.files_of(name)) and not staging.missing(name, folder)
    weights = staging.files_of(name)[0].found(folder) if staged else None
    sha256 = staging.weights_hash(name, folder) if staged else None
    if family == "layout":
        from svdstory.pipeline.metrics.dino import DinoTokens
        from svdstory.pipeline.metrics.layout import Layout

        return Layout(name, DinoTokens(weights, sha256, device, batch, tiny=backbone == "tiny"))
    networks, network = {} if networks is None else networks, f"dino {backbone}" if family == "dino-i" else backbone
    if network not in networks:
        networks[network] = _embedder(network, weights, sha256, device, batch)
    embedder = networks[network]
    if family == "clipscore":
        from svdstory.pipeline.metrics.clipscore import ClipScore

        return ClipScore(name, embedder, cache)
    if family == "background":
        from svdstory.pipeline.metrics.background import Background

        return Background(name, embedder, cache, fill)
    if family == "cqs":
        from svdstory.pipeline.metrics.cqs import ConsistencyQuality

        return ConsistencyQuality(name, embedder, cache, fill)
    from svdstory.pipeline.metrics.consistency import Consistency

    return Consistency(name, embedder, cache, fill)


def _embedder(backbone: str, weights: Path | None, sha256: str | None, device: str, batch: int) -> Embedder:
    """`weights`: the first of the backbone's staged files; None: random ones. `dino vits16`: DINO itself."""
    if backbone.startswith("dino "):
        from svdstory.pipeline.metrics.dino import DinoEmbedder

        return DinoEmbedder(backbone.removeprefix("dino "), weights, sha256, device, batch)
    if backbone in ("clip", "tiny"):
        from svdstory.pipeline.metrics.clip_embedder import ClipEmbedder

        return ClipEmbedder(weights, sha256, device, batch, tiny=backbone == "tiny")
    from svdstory.pipeline.metrics.dreamsim_embedder import DreamSimEmbedder

    return DreamSimEmbedder(backbone, weights and weights.parent, sha256, device, batch)


def _shipped(name: str, file: str) -> tuple[Path, str]:
    """One of the miniature's judges and its sha256. Raises InputError for an installation without it."""
    weights = Path(__file__).parents[1] / "miniature" / "weights" / "judges" / file
    if not weights.is_file():
        raise InputError(f"scorer {name!r}: {weights} is missing: this svdstory was installed without the miniature.")
    return weights, staging.sha256(weights)
