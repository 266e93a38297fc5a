"""Curate: sets ranked by measured consistency, proposed with their images, written as prompt files."""

import pytest
from PIL import Image

from svdstory.jobs.report.cells import read_study
from svdstory.jobs.report.curate import curate, propose, write_sets
from svdstory.pipeline.config.prompt_files import read_sets
from svdstory.pipeline.config.strict import InputError
from tests.jobs.synthetic import score, synthetic_run

SETS = ("blue-bus", "doctor", "red-fox", "dolphin", "teapot")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = tmp_path_factory.mktemp("curate")
    plan = synthetic_run(run, sets=SETS, methods=("sdxl", "consistory"), seeds=(0, 1))
    left_out = next(c.key for c in plan.cells if c.set == "teapot" and c.method == "consistory")
    score(run, plan, "dreamsim", {"dreamsim_subject": 0.4}, skip=(left_out,))
    return run


def test_sets_are_ranked_by_the_baselines_mean_over_seeds(run):
    study = read_study(run)
    proposal = propose(study)
    assert proposal.method == "consistory" and proposal.metric == "dreamsim_subject"
    values = [r.value for r in proposal.ranked]
    assert values == sorted(values) and len(values) == 4


def test_a_set_with_a_missing_number_is_left_out_and_named(run):
    assert propose(read_study(run)).left_out == {"teapot": "seed 0: not scored"}


def test_no_set_is_proposed_as_good_and_bad(run):
    proposal = propose(read_study(run))
    for count in (1, 2, 3, 10):
        good, bad = ({r.name for r in sets} for sets in (proposal.good(count), proposal.bad(count)))
        assert good and bad and not good & bad


def test_the_proposal_is_drawn_and_says_that_the_model_is_random(run):
    curate(run, 2)
    image = Image.open(run / "curated.png")
    assert image.text["method"] == "consistory" and len(image.text["unit"].split("\n")) == 8


def test_written_sets_can_be_run(run, tmp_path):
    study, proposal = curate(run, 2)
    paths = write_sets(study, proposal, tmp_path / "mine", 2)
    assert sorted(p.parent.name for p in paths) == ["bad", "bad", "good", "good"]
    for path in paths:
        (read,) = read_sets(path)
        assert read.content() == study.plan.sets[path.stem].content() and "consistent of 4 sets" in read.why
    with pytest.raises(InputError, match="there already"):
        write_sets(study, proposal, tmp_path / "mine", 2)


def test_without_numbers_the_error_names_the_command(tmp_path):
    synthetic_run(tmp_path, sets=("blue-bus",), methods=("consistory",), seeds=(0,))
    with pytest.raises(InputError, match="svdstory score"):
        propose(read_study(tmp_path))
