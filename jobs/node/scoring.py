"""Scoring: every finished unit that lacks a scorer's numbers gets them, from its files alone.

The numbers go into shards (study/scores.py), embeddings into RUN/scores/embeddings (pipeline/metrics/cache.py).
Resumable at any point: a unit's numbers are fresh while the protocol and the images' sha256 are the same.
"""

import hashlib
import io
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load

from svdstory.jobs.node.causes import FATAL, cause_of, free_memory
from svdstory.jobs.study.plan import Plan, plan_path, read_plan
from svdstory.jobs.study.reference_files import placed
from svdstory.jobs.study.scores import (
    Scores,
    Shard,
    image_hashes,
    image_names,
    images_digest,
    protocol_hash,
    read_scores,
)
from svdstory.jobs.study.store import Store
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.references import Reference, read_picture
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.metrics.cache import EmbeddingCache
from svdstory.pipeline.metrics.names import parts
from svdstory.pipeline.metrics.registry import load_scorer
from svdstory.pipeline.metrics.scorer import Scorer, UnitImages, Values

TENSORS = "tensors.safetensors"
IN_A_ROW = 3  # a scorer that fails on its first units, so many, is not asked for the others
Report = Callable[[str, str, str, float], None]  # scorer, key, "scored" | "fresh" | why not, seconds
Loaded = tuple[str, str, UnitImages]  # key, digest of its images, the unit


@dataclass
class Scored:
    """(scorer, key) of what was scored now, had fresh numbers, or could not be scored, with the cause. `stopped`: why
    it ended early, or empty: `asked to stop`, or a cause after which all the rest would fail too."""

    scored: list[tuple[str, str]] = field(default_factory=list)
    fresh: list[tuple[str, str]] = field(default_factory=list)
    failed: dict[tuple[str, str], str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)  # scorers whose weights are not here
    stopped: str = ""

    @property
    def complete(self) -> bool:
        return not (self.failed or self.left_out or self.stopped)


@dataclass
class Scoring:
    """What it takes to score some units: where they lie, what is known of them, where numbers go.

    shard: where new numbers wait. batch: images that go through a network at once, whichever units they are of. shown:
    key -> its set, where that has reference pictures.
    """

    store: Store
    known: Scores
    shard: Shard
    cache: EmbeddingCache
    device: str = "cpu"
    weights: Path | None = None
    allow_random: bool = False
    batch: int = 64
    stop: Callable[[], bool] = lambda: False
    report: Report = lambda scorer, key, state, seconds: None
    shown: dict[str, PromptSet] = field(default_factory=dict)
    outcome: Scored = field(default_factory=Scored)

    def add(self, scorer: Scorer, key: str, images: str, values: Values, seconds: float) -> None:
        self.shard.add(key, scorer, images, values)
        self.outcome.scored.append((scorer.name, key))
        self.report(scorer.name, key, "scored", seconds)

    def fail(self, scorer: str, key: str, why: str, seconds: float = 0.0) -> None:
        self.shard.fail(key, scorer, why)
        self.outcome.failed[scorer, key] = why
        self.report(scorer, key, why, seconds)

    def publish(self) -> None:
        """Publish what waits. A disk that takes nothing ends the scoring, and what waits is lost: it is made again."""
        try:
            self.shard.publish()
            self.cache.flush()
        except OSError as error:
            self.outcome.stopped = cause_of(error)
            print(f"scores could not be written: {error}", flush=True)


def score_run(run: Path, names: Iterable[str], **how) -> Scored:
    """Score all finished units of a run's plan with these scorers. `how`: the last fields of `Scoring`.

    Raises InputError where there is no plan, and for an unknown scorer.
    """
    plan = read_plan(plan_path(run))
    cache = EmbeddingCache(run / "scores" / "embeddings")
    scoring = Scoring(Store(run), read_scores(run), Shard(run), cache, shown=shown_in(plan, run), **how)
    return score_each(scoring, plan.units, names)


def score_each(scoring: Scoring, keys: Iterable[str], names: Iterable[str]) -> Scored:
    """Score the finished units among `keys` with one scorer after the other, and publish the numbers.

    A scorer that fails, or whose weights are not here, is recorded with its cause, and the next one measures: numbers
    are never made up. Raises InputError for an unknown name, before any work.
    """
    names, networks = list(dict.fromkeys(names)), {}
    for name in names:
        parts(name)
    finished = [key for key in keys if scoring.store.is_finished(key)]
    for name in names:
        if scoring.outcome.stopped:
            break
        try:
            scorer = load_scorer(
                name,
                scoring.device,
                scoring.weights,
                scoring.cache,
                scoring.allow_random,
                scoring.batch,
                networks=networks,
            )
            score_units(scoring, finished, scorer)
        except InputError as error:
            print(f"{name} is left out: {error}", flush=True)
            scoring.outcome.left_out.append(name)
            for key in finished:
                scoring.shard.fail(key, name, "weights missing")
        except Exception as error:  # its files, its library: recorded, never the images' loss
            for key in finished:
                scoring.fail(name, key, why_not(error))
    scoring.publish()
    return scoring.outcome


def score_units(scoring: Scoring, keys: Iterable[str], scorer: Scorer) -> None:
    """Score those of the finished units that lack fresh numbers.

    A unit that cannot be scored is recorded as failed, and the next one is scored. Raises InputError for weights that
    cannot be used.
    """
    in_a_row, result = 0.0, ""
    for batch in _batches(scoring, keys, scorer):
        results, began = _numbers(scorer, [unit for *_, unit in batch]), time.monotonic()
        for key, images, _ in batch:
            result = next(results) if in_a_row < IN_A_ROW else result
            seconds, began = time.monotonic() - began, time.monotonic()
            if not isinstance(result, str):
                in_a_row = -math.inf  # it works: what fails from now on is the unit's own fault
                scoring.add(scorer, key, images, result, seconds)
            elif result.partition(":")[0] in FATAL:
                scoring.outcome.stopped = result
                return
            else:
                in_a_row += 1
                scoring.fail(scorer.name, key, result, seconds)
        if scoring.shard.is_due:
            scoring.publish()


def _numbers(scorer: Scorer, units: list[UnitImages]) -> Iterator[Values | str]:
    """For each unit its numbers, or why there are none. Units that fail together are tried one by one.

    Raises InputError for weights that cannot be used.
    """
    try:
        yield from map(_checked, scorer.score_many(units))
        return
    except InputError:
        raise
    except Exception as error:  # a network's, a library's, the card's: recorded, never the images' loss
        why = why_not(error)
    free_memory()
    if len(units) == 1 or why.partition(":")[0] in FATAL:
        yield from [why] * len(units)
        return
    for unit in units:
        yield from _numbers(scorer, [unit])


def why_not(error: Exception) -> str:
    """Why there are no numbers: a cause in the store's words, and the error's own."""
    return f"{cause_of(error)}: {type(error).__name__}: {error}"[:300]


def _checked(values: Values) -> Values | str:
    broken = [name for name, value in values.items() if not np.isfinite(value).all()]
    return f"not finite: {broken[0]}" if broken else values


def _batches(scoring: Scoring, keys: Iterable[str], scorer: Scorer) -> Iterator[list[Loaded]]:
    """Units to score, loaded, in groups of about `scoring.batch` images, until it is asked to stop."""
    group: list[Loaded] = []
    protocol, outcome = protocol_hash(scorer.protocol), scoring.outcome
    for key in keys:
        if outcome.stopped or scoring.stop():
            outcome.stopped = outcome.stopped or "asked to stop"
            return
        try:
            manifest = scoring.store.manifest(key)
            shown = scoring.shown.get(key)
            images = images_digest(image_hashes(manifest), shown.reference_hashes if shown else ())
            if scoring.known.of(scorer.name, key, protocol, images):
                outcome.fresh.append((scorer.name, key))
                scoring.report(scorer.name, key, "fresh", 0.0)
                continue
            group.append((key, images, load_unit(scoring.store, key, manifest, shown)))
        except (OSError, ValueError, KeyError, SyntaxError) as error:  # SyntaxError: PIL's word for a broken PNG
            scoring.fail(scorer.name, key, f"damaged images: {error}")
            continue
        if sum(len(unit.images) for *_, unit in group) >= scoring.batch:
            yield group
            group = []
    if group:
        yield group


def shown_in(plan: Plan, run: Path) -> dict[str, PromptSet]:
    """Key -> its set, for those with reference pictures: all of them, also where the method used fewer, or none."""
    sets = {name: placed(prompts, run) for name, prompts in plan.sets.items() if prompts.references}
    return {key: sets[cell.set] for key, cell in plan.units.items() if cell.set in sets}


@lru_cache(maxsize=64)
def _picture(reference: Reference, size: tuple[int, int]) -> Image.Image:
    return read_picture(reference, size)


def references_of(shown: PromptSet, size: tuple[int, int], masks: np.ndarray | None) -> UnitImages:
    """A set's reference pictures at the size of its images; masks where there are some of all."""
    pictures = [_picture(reference, size) for reference in shown.references]
    masks = masks if masks is not None and len(masks) == len(pictures) else None
    return UnitImages(pictures, shown.reference_prompts, shown.subject, masks)


def load_unit(store: Store, key: str, manifest: dict, shown: PromptSet | None = None) -> UnitImages:
    """A finished unit's images and masks; pixels are decoded when a scorer looks at them. `shown`: its set, where that
    has reference pictures.

    Raises ValueError or OSError for a file that its manifest doesn't fit.
    """
    folder = store.folder(key)
    images = [Image.open(io.BytesIO(_read(folder / name, manifest))) for name in image_names(manifest)]
    tensors = load(_read(folder / TENSORS, manifest)) if TENSORS in manifest["files"] else {}
    masks, of_references = (
        tensors[name].astype(bool) if name in tensors else None for name in ("masks", "reference_masks")
    )
    return UnitImages(
        images,
        manifest["prompts"],
        manifest["set"]["subject"],
        masks,
        tuple(image_hashes(manifest).values()),
        manifest["set"],
        references_of(shown, images[0].size, of_references) if shown else None,
    )


def _read(path: Path, manifest: dict) -> bytes:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest["files"][path.name]["sha256"]:
        raise ValueError(f"{path.name}: content differs from its sha256. Run `svdstory verify`.")
    return content
