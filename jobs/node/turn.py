"""One turn at some units on one device: sample those that are missing, then score those that lack numbers.

The model has left the device before the first scorer comes onto it. Whatever becomes of the numbers, the images stay.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from svdstory.jobs.node.causes import free_memory
from svdstory.jobs.node.scoring import Report, Scored, Scoring, score_each, shown_in
from svdstory.jobs.node.worker import Outcome, work
from svdstory.jobs.study.plan import Plan
from svdstory.jobs.study.scores import Scores, Shard
from svdstory.jobs.study.store import Store
from svdstory.pipeline.metrics.cache import EmbeddingCache
from svdstory.pipeline.models.device import choose_device


def take_turn(
    plan: Plan,
    run: Path,
    keys: Iterable[str],
    scorers: Iterable[str],
    *,
    sample: bool = True,
    known: Scores,
    shard: Shard,
    device: str | None = None,
    micro_batch: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[str, str, float], None] = lambda key, state, seconds: None,
    report_score: Report = lambda scorer, key, state, seconds: None,
) -> tuple[Outcome, Scored]:
    """Make and score the units `keys` (see `work` and `score_each`). Sampling that ended early is not scored.

    Without `sample` they are scored alone.
    `known` are the units' records so far; new ones go into `shard`. Raises InputError for a model that cannot be
    loaded here and for an unknown scorer.
    """
    keys, scorers, store = list(keys), list(scorers), Store(run)
    made = Outcome()
    if sample:
        made = work(plan, store, keys, device=device, micro_batch=micro_batch, stop=stop, report=report)
    if made.stopped or not scorers:
        return made, Scored(stopped=made.stopped)
    free_memory()
    scoring = Scoring(
        store,
        known,
        shard,
        EmbeddingCache(run / "scores" / "embeddings", others=False),  # they are of other units
        device=str(choose_device(device)),
        allow_random=bool(plan.model.note),
        stop=stop,
        report=report_score,
        shown=shown_in(plan, run),
    )
    return made, score_each(scoring, keys, scorers)
