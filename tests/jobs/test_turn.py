"""A turn at some units, with the real tiny model: sampled, the model gone, then scored; whatever scorers do."""

import weakref

import pytest

from svdstory.jobs.node import scoring, turn, worker
from svdstory.jobs.study.experiment import Experiment
from svdstory.jobs.study.plan import make_plan
from svdstory.jobs.study.scores import Shard, read_scores, read_standing, shard_paths
from svdstory.jobs.study.store import Store

SCORERS = ("clipscore:tiny", "background:tiny")


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    experiment = Experiment(
        sets=("red-fox",), methods=("sdxl",), model="tiny", seeds=(0, 1), steps=2, size=(64, 64), scorers=SCORERS
    )
    return make_plan("small", experiment, tmp_path_factory.mktemp("plan"))


def take(plan, run, **how):
    known, shard = read_scores(run), Shard(run)
    return turn.take_turn(plan, run, list(plan.units), plan.scorers, known=known, shard=shard, device="cpu", **how)


def test_the_model_has_gone_before_the_first_scorer_comes(plan, tmp_path, monkeypatch):
    models, there = [], []
    load_model, load_scorer = worker.load_model, scoring.load_scorer

    def loaded(*args, **how):
        model = load_model(*args, **how)
        models.append(weakref.ref(model.pipe.unet))
        return model

    def scorer(*args, **how):
        there.append(models[0]() is not None)
        return load_scorer(*args, **how)

    monkeypatch.setattr(worker, "load_model", loaded)
    monkeypatch.setattr(scoring, "load_scorer", scorer)
    made, scored = take(plan, tmp_path)
    assert len(made.made) == 2 and there == [False, False]
    assert len(scored.scored) == 4 and len(shard_paths(tmp_path)) == 1


def test_a_turn_that_is_asked_to_stop_while_sampling_scores_nothing(plan, tmp_path):
    asked = iter([False] * 3 + [True] * 99)
    made, scored = take(plan, tmp_path, stop=lambda: next(asked))
    assert made.stopped == scored.stopped == "asked to stop" and not shard_paths(tmp_path)


def test_a_second_turn_finds_units_and_numbers_and_loads_nothing(plan, tmp_path, monkeypatch):
    take(plan, tmp_path)
    monkeypatch.setattr(worker, "load_model", None)
    made, scored = take(plan, tmp_path)
    assert len(made.found) == 2 and len(scored.fresh) == 4 and len(shard_paths(tmp_path)) == 1


def test_scorers_that_cannot_be_loaded_cost_no_image(plan, tmp_path, monkeypatch):
    def broken(name, *args, **how):
        raise MemoryError("cannot allocate memory")

    monkeypatch.setattr(scoring, "load_scorer", broken)
    made, scored = take(plan, tmp_path)
    assert len(made.made) == 2 and all(Store(tmp_path).is_finished(key) for key in plan.units)
    assert set(scored.failed.values()) == {"out of memory: MemoryError: cannot allocate memory"}
    assert set(read_standing(tmp_path).failed) == set(SCORERS)


def test_without_sampling_only_what_is_finished_is_scored(plan, tmp_path):
    made, scored = take(plan, tmp_path, sample=False)
    assert not made.made and not scored.scored and not shard_paths(tmp_path)
