"""Scoring a run: every finished unit that lacks a scorer's numbers gets them, without the GPU run.

RUN/scores/<scorer>/<key>.json             one unit's numbers, its images' sha256 and the protocol
RUN/scores/embeddings/embeddings-*.npz     the cache: shards of about 2,000 embeddings

Resumable at any point: a unit's numbers are there or not. They are fresh while the protocol and the images' sha256 are
the same; stale ones are replaced by one rename.
"""

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load

from svdstory.jobs.study.plan import plan_path, read_plan
from svdstory.jobs.study.scores import image_hashes, image_names, is_fresh, write_score
from svdstory.jobs.study.store import Store
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.metrics.cache import EmbeddingCache
from svdstory.pipeline.metrics.names import parts
from svdstory.pipeline.metrics.registry import load_scorer
from svdstory.pipeline.metrics.scorer import Scorer, UnitImages

Report = Callable[[str, str], None]
TENSORS = "tensors.safetensors"


@dataclass
class Scored:
    """Keys of units that were scored now, had fresh scores, or could not be scored (with the cause)."""

    scored: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def score_run(
    run: Path,
    name: str,
    *,
    device: str = "cpu",
    weights: Path | None = None,
    allow_random: bool = False,
    batch: int = 64,
    report: Report = lambda key, state: None,
) -> Scored:
    """Score all finished units of a run's plan with the scorer `name`; see `load_scorer` and `score_units`.

    Raises InputError where there is no plan, for an unknown scorer, and for missing weights.
    """
    plan = read_plan(plan_path(run))
    cache = EmbeddingCache(run / "scores" / "embeddings")
    scorer = load_scorer(name, device, weights, cache, allow_random, batch)
    try:
        return score_units(Store(run), plan.units, scorer, batch, report)
    finally:
        cache.flush()


def score_with_each(names: Iterable[str], score: Callable[[str], int], say: Callable[[str], None]) -> int:
    """Score with each of some scorers. Returns how many units, or whole scorers, have no numbers.

    `score(name)` scores with one and returns the number of units that it could not score. A scorer whose weights are
    not staged is left out, and said: numbers are never made up. Raises InputError for an unknown one, before any work.
    """
    names, unscored = list(dict.fromkeys(names)), 0
    for name in names:
        parts(name)
    for name in names:
        try:
            unscored += score(name)
        except InputError as error:
            say(f"{name} is left out: {error}")
            unscored += 1
    return unscored


def score_units(
    store: Store,
    keys: Iterable[str],
    scorer: Scorer,
    images_at_once: int = 64,
    report: Report = lambda key, state: None,
) -> Scored:
    """Score the finished units among `keys` that lack fresh scores; the others' numbers stay as they are.

    A unit whose images are damaged is recorded as failed, and the next one is scored. `report` is told of each unit:
    (key, "scored" | "fresh" | the cause).
    """
    outcome = Scored()
    for batch in _batches(store, keys, scorer, images_at_once, outcome, report):
        for (key, manifest, _), values in zip(batch, scorer.score_many([unit for *_, unit in batch]), strict=True):
            broken = [name for name, value in values.items() if not np.isfinite(value).all()]
            if broken:
                outcome.failed[key] = f"{broken[0]} is not finite"
                report(key, outcome.failed[key])
                continue
            write_score(store.run, key, scorer, image_hashes(manifest), values)
            outcome.scored.append(key)
            report(key, "scored")
    return outcome


def _batches(
    store: Store, keys: Iterable[str], scorer: Scorer, images_at_once: int, outcome: Scored, report: Report
) -> Iterator[list[tuple[str, dict, UnitImages]]]:
    """Units to score, loaded, in groups of about `images_at_once` images."""
    group: list[tuple[str, dict, UnitImages]] = []
    for key in keys:
        if not store.is_finished(key):
            continue
        manifest = store.manifest(key)
        if is_fresh(store.run, key, scorer, manifest):
            outcome.fresh.append(key)
            report(key, "fresh")
            continue
        try:
            group.append((key, manifest, load_unit(store, key, manifest)))
        except (OSError, ValueError, KeyError, SyntaxError) as error:  # SyntaxError: PIL's word for a broken PNG
            outcome.failed[key] = str(error)
            report(key, str(error))
            continue
        if sum(len(unit.images) for *_, unit in group) >= images_at_once:
            yield group
            group = []
    if group:
        yield group


def load_unit(store: Store, key: str, manifest: dict) -> UnitImages:
    """A finished unit's images and masks; pixels are decoded when a scorer looks at them.

    Raises ValueError or OSError for a file that its manifest doesn't fit.
    """
    folder = store.folder(key)
    images = [Image.open(io.BytesIO(_read(folder / name, manifest))) for name in image_names(manifest)]
    masks = load(_read(folder / TENSORS, manifest)).get("masks") if TENSORS in manifest["files"] else None
    return UnitImages(
        images,
        manifest["prompts"],
        manifest["set"]["subject"],
        None if masks is None else masks.astype(bool),
        tuple(image_hashes(manifest).values()),
        manifest["set"],
    )


def _read(path: Path, manifest: dict) -> bytes:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest["files"][path.name]["sha256"]:
        raise ValueError(f"{path.name}: content differs from its sha256. Run `svdstory verify`.")
    return content
