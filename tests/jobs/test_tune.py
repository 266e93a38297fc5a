"""A search finds the front, goes on after kills to the trials that it would have had, and confirms on what it never saw."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import yaml
from optuna.storages.journal import JournalFileBackend

from svdstory.jobs.study.experiment import Experiment
from svdstory.jobs.study.plan import make_plan, plan_path, read_plan, write_plan
from svdstory.jobs.study.scores import Shard, image_hashes, images_digest
from svdstory.jobs.study.store import Store
from svdstory.jobs.tune import front
from svdstory.jobs.tune.objectives import directions, resolve
from svdstory.jobs.tune.space import read_space, spaces
from svdstory.jobs.tune.trials import Question, method_of, name_of, search, told
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.strict import InputError
from tests.jobs.synthetic import Stated, publish

SPACE = {
    "base": "consistory-no-injection",
    "space": {
        "masks": [{}, {"extended_attention": "unmasked", "mask_dropout": 0.0}],
        "n_anchors": [1, 2, 3],
        "K": [{}, {"filter_k.clip": 1}, {"filter_k.reweight": "log2"}],
        "mask_dropout": {"low": 0.1, "high": 0.9},
    },
    "objectives": ["clip_i", "background excess"],
    "against": ["consistory"],
    "search": {"sets": ["red-fox"], "seeds": [0]},
    "confirm": {"sets": ["red-fox"], "seeds": [1]},
    "batch": 3,
}


def question(run: Path, **changes) -> Question:
    path = run.parent / "space.yaml"
    path.write_text(yaml.safe_dump({**SPACE, **changes}, sort_keys=False), encoding="utf-8")
    scorers = ("clip-i:tiny", "background:tiny")
    experiment = Experiment(sets=("red-fox",), methods=("sdxl",), model="tiny", seeds=(0,), scorers=scorers)
    space, path = read_space(str(path))
    return Question(space, make_plan("x", experiment, run.parent), path.parent, run)


def pretend(plan, run: Path) -> None:
    """Units of coloured discs, with numbers that switches and seeds make: more anchors are more consistent and leak more."""
    write_plan(plan, run)
    store, shard = Store(run), Shard(run)
    for key, cell in plan.units.items():
        if store.folder(key).exists():
            continue
        publish(run, plan, key)
        images = images_digest(image_hashes(store.manifest(key)))
        method = plan.methods[cell.method]
        clip = 0.5 + 0.1 * method.n_anchors + 0.01 * cell.seed
        leak = 0.2 + 0.05 * method.n_anchors - (0.1 if method.filter_k else 0)
        shard.add(key, Stated("clip-i:tiny"), images, {"clip_i": clip, "clip_i_subject": clip})
        shard.add(key, Stated("background:tiny"), images, {"background": leak + 0.1 * method.mask_dropout})
    shard.publish()


def asked(study) -> list[tuple]:
    return [(t.number, t.state.name, t.params, t.values) for t in told(study)]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    run = tmp_path_factory.mktemp("tune") / "run"
    ours = question(run)
    return ours, search(ours, 8, pretend, lambda line: None)


def test_impossible_combinations_are_pruned_with_their_reason_and_cost_no_unit(searched):
    ours, study = searched
    pruned = [trial for trial in told(study) if trial.state.name == "PRUNED"]
    assert pruned and all("needs extended_attention: masked" in trial.user_attrs["why"] for trial in pruned)
    planned = read_plan(plan_path(ours.run)).methods
    assert {"sdxl", "consistory"} < set(planned) and not {name_of(t) for t in pruned} & set(planned)
    assert all(planned[name_of(t)] == method_of(t, ours) for t in told(study) if t.state.name == "COMPLETE")


def die(n: int, run: Path) -> None:
    """A search whose process is killed in the middle of its n-th line of the journal, or at its end."""
    written = iter(range(1, n))
    whole = JournalFileBackend.append_logs

    def append(self, logs):
        if next(written, None) is None:
            with open(self._file_path, "ab") as file:
                file.write(json.dumps(logs[0])[:9].encode())
            os.kill(os.getpid(), signal.SIGKILL)
        whole(self, logs)

    JournalFileBackend.append_logs = append
    search(question(run), 8, pretend, lambda line: None)


@pytest.mark.parametrize("lines", [(4, 2, 7), (9, 16, 5), (25, 3, 1)])
def test_a_search_killed_anywhere_goes_on_to_the_same_trials(tmp_path, searched, lines):
    run = tmp_path / "run"
    for n in lines:
        process = multiprocessing.get_context("fork").Process(target=die, args=(n, run))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert asked(search(question(run), 8, pretend, lambda line: None)) == asked(searched[1])


def test_more_trials_go_on_from_those_that_are_there(tmp_path):
    few = asked(search(question(tmp_path / "run"), 3, pretend, lambda line: None))
    more = asked(search(question(tmp_path / "run"), 6, pretend, lambda line: None))
    assert more[:3] == few and len(more) == 6


def test_the_front_is_measured_again_on_what_was_not_searched_and_both_numbers_are_told(searched):
    ours, study = searched
    points = front.confirm(ours, study, pretend)
    best = [point for point in points if point.front]
    assert best and {p.name for p in best} <= {name_of(trial) for trial in study.best_trials}
    for point in best:
        assert point.confirmed[0] == pytest.approx(point.searched[0] + 0.01)  # seed 1's number, not seed 0's
    assert {cell.seed for cell in read_plan(plan_path(ours.run / "confirm")).cells} == {1}
    page = front.write(ours, points, study).read_text(encoding="utf-8")
    assert f"{best[0].searched[0]:.4f}" in page and f"{best[0].confirmed[0]:.4f}" in page
    assert (ours.run / "report" / "front.png").stat().st_size > 10_000
    rows = (ours.run / "report" / "front.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + sum(t.state.name == "COMPLETE" for t in told(study)) + 2


def test_a_trial_whose_units_lack_numbers_has_failed_and_says_why(tmp_path):
    one = question(tmp_path / "run", space={"n_anchors": [1, 2]})
    (trial,) = told(search(one, 1, write_plan_alone, lambda line: None))
    assert trial.state.name == "FAIL" and "not finished" in trial.user_attrs["why"]


def write_plan_alone(plan, run: Path) -> None:
    write_plan(plan, run)


def test_another_space_does_not_mix_with_a_runs_search(tmp_path, searched):
    other = question(tmp_path / "run", sampler_seed=1)
    with pytest.raises(InputError, match="holds the search of another space"):
        search(Question(other.space, other.plan, other.near, searched[0].run), 8, pretend, lambda line: None)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"confirm": {"sets": ["red-fox"], "seeds": [0]}}, "set red-fox, seed 0 is searched on too"),
        ({"space": {"n_anchors": {"low": 3, "high": 1}}}, "expected low < high"),
        ({"space": {}}, "at least 1 item"),
        ({"objective": ["x"]}, "unknown key 'objective'"),
    ],
)
def test_a_bad_space_is_refused_with_the_reason(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        question(tmp_path / "run", **changes)


def test_objectives_are_metrics_or_axes_of_the_report(tmp_path):
    plan = question(tmp_path / "run").plan
    assert resolve(("consistency", "leakage"), plan) == ["clip_i_subject:tiny", "background:tiny excess over sdxl"]
    assert directions(["identity_distance", "clip_i"]) == ["minimize", "maximize"]
    with pytest.raises(InputError, match="objective 'dreamsim': model tiny's scorers"):
        resolve(("dreamsim", "leakage"), plan)


def test_the_shipped_space_can_be_any_filter_with_and_without_masks_and_injection():
    (name,) = spaces()
    space, _ = read_space(name)
    first = {switch: among[0] for switch, among in space.space.items()}
    assert space.method(space.switches(first), "t") == named("consistory")
    masks, filters = (
        {"masks": space.space["masks"][1]},
        {"K, reweighting": {"filter_k.clip": 1}, "V, reweighting": {"filter_v.clip": 1}},
    )
    assert space.method(space.switches(first | masks | filters), "t") == named("svd-clip-1")
