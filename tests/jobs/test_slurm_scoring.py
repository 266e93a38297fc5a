"""Numbers made by the tasks themselves, on a real Slurm: killed, requeued, failing, in an array, in the reduce job."""

from svdstory.jobs.queue import attempts
from svdstory.jobs.study.scores import read_scores, read_standing, shard_paths
from tests.jobs.cluster import until
from tests.jobs.stage import Act, overlapping
from tests.jobs.test_slurm_faults import began_more_than_once

SCORER = "clipscore:tiny"


def scoring(study) -> list[str]:
    """IMAGE.ATTEMPT of each unit that a scorer began with."""
    folder = study.control / "scored"
    return [path.name.removeprefix("clipscore-tiny-") for path in folder.iterdir()] if folder.exists() else []


def kill_worker(act: Act, of: str):
    """SIGKILL for the process of a name that ends in its attempt."""
    node, pid, *_ = of.split("-")[-4:]
    act.cluster.node(node, "enter", "kill", "-KILL", pid)


def hold_scoring(study):
    (study.control / "score_hold").touch()


def release_scoring(study):
    (study.control / "score_hold").unlink()


def turns(study) -> list:
    return [turn for submission in study.submissions for turn in attempts.read(submission.folder)]


def fully_scored(study) -> bool:
    return len(read_standing(study.run).scored[SCORER]) == study.units


@overlapping
def test_sigkill_in_the_middle_of_scoring_loses_no_image_and_the_reduce_job_asks_for_the_numbers(act: Act):
    study = act.study(site={"rounds": 2})
    hold_scoring(study)
    study.submit()
    until("a task to score", lambda: scoring(study))
    act.fault("SIGKILL of a worker in the middle of scoring")
    kill_worker(act, scoring(study)[0])
    release_scoring(study)
    act.recovered(study, "its images were there; the reduce job asked again, its units were scored and not sampled")
    assert began_more_than_once(study) == [] and fully_scored(study)
    assert [s.intent["round"] for s in study.submissions] == [0, 1]


@overlapping
def test_a_task_requeued_while_scoring_samples_nothing_again(act: Act):
    study = act.study(site={"signal_seconds": 10})
    hold_scoring(study)
    study.submit()
    until("a task to score", lambda: scoring(study))
    act.fault("USR2 to a task in the middle of scoring, until its deadline")
    element = scoring(study)[0].split(".")[1].split("-r")[0]
    act.cluster.ask("scancel", "--signal=USR2", element)
    until("it to give up at its deadline", lambda: any(turn.ending == "stopped" for turn in turns(study)))
    release_scoring(study)
    act.recovered(study, "requeued at its deadline, its units found, their numbers made")
    (second,) = [turn for turn in turns(study) if (turn.job, turn.restart) == (element, 1)]
    assert (second.ending, second.made) == ("finished", 0) and fully_scored(study)
    assert began_more_than_once(study) == [] and len(study.submissions) == 1


@overlapping
def test_a_failing_scorer_costs_no_image_and_is_shown_by_its_cause(act: Act):
    study = act.study(site={"rounds": 2})
    (study.control / "clipscore-tiny.fails").write_text("memory")
    act.fault("a scorer that runs out of memory everywhere")
    study.submit()
    study.until_quiet()
    assert study.finished() == study.units and len(study.submissions) == 1  # what failed is not asked for again
    assert study.status()["unscored"] == {SCORER: {"out of memory": study.units}}
    assert "clipscore:tiny: out of memory" in study.svdstory("status", "run", status=None)
    (study.control / "clipscore-tiny.fails").unlink()
    study.submit()
    act.recovered(study, "all images made, the cause shown; the next submit scored them without sampling")
    assert began_more_than_once(study) == []


@overlapping
def test_an_array_of_scoring_tasks_makes_the_same_report(act: Act):
    study = act.study(site={"scorers_on": "array"})
    act.fault("none: scorers_on: array")
    assert "then 4 tasks that score" in study.submit()
    act.recovered(study, "tasks without a GPU scored after the sampling tasks")
    sampled = {name.partition(".")[2].split("-r")[0] for name in study.began()}
    assert not sampled & {name.partition(".")[2].split("-r")[0] for name in scoring(study)}


@overlapping
def test_the_reduce_job_scores_where_the_profile_says_so(act: Act):
    study = act.study(site={"scorers_on": "reduce"})
    act.fault("none: scorers_on: reduce")
    study.submit()
    act.recovered(study, "the reduce job scored all, then reported")
    assert len({name.partition(".")[2] for name in scoring(study)}) == 1


@overlapping
def test_a_run_scored_later_by_hand_has_the_report_of_one_scored_on_the_nodes(act: Act):
    study = act.study()
    study.svdstory(*study.submit_words, "--without-metrics")
    study.until_quiet()
    assert study.finished() == study.units and not shard_paths(study.run)
    for words in (["score", "run"], ["reduce", "run"]):
        study.svdstory(*words, light=True)
    assert study.report() == act.stage.reference()


@overlapping
def test_a_shard_damaged_on_disk_is_made_good_by_scoring_again(act: Act):
    study = act.study()
    study.submit()
    until("the report", lambda: any(s.reduced for s in study.submissions))
    path = shard_paths(study.run)[0]
    path.write_bytes(path.read_bytes()[:-20])
    assert "no numbers" in study.svdstory("reduce", "run", light=True)
    study.svdstory("score", "run", light=True)
    study.svdstory("reduce", "run", light=True)
    assert study.report() == act.stage.reference()
    assert sum(len(records) for records in read_scores(study.run).records.values()) == study.units


@overlapping
def test_what_a_killed_worker_left_is_asked_for_by_the_reduce_job(act: Act):
    study = act.study(site={"rounds": 2})
    study.hold()
    study.submit()
    until("a unit to begin", lambda: study.began())
    act.fault("SIGKILL of a worker, and nobody there")
    kill_worker(act, study.began()[0])
    study.release()
    act.recovered(study, "the reduce job asked again for its units, and the next one reported")
    assert [s.intent["round"] for s in study.submissions] == [0, 1]
