"""submit --dry-run and logs, without a cluster: Slurm's commands are pretended."""

import re

import pytest

from svdstory.jobs.cluster.logs import by_cause, of_unit
from svdstory.jobs.queue.ledger import Submission, intend, submissions
from svdstory.jobs.study.plan import plan_path, read_plan
from svdstory.jobs.study.store import Attempt, Store
from svdstory.pipeline.config.strict import InputError
from tests.jobs.pretend import attempt, pretend
from tests.jobs.test_status import planned, publish

SITE = "{extends: lab, max_array: 2, parallel: 1, setup: ['module load x']}"
WORDS = ("smoke", "--methods", "sdxl,unmasked", "--site", "./site.yaml", "--out", "my run")


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A site whose sbatch keeps what it is given. Gives the scripts in the order of asking."""
    (tmp_path / "site.yaml").write_text(SITE)
    kept = tmp_path / "kept"
    kept.mkdir()
    sbatch = f'n=$(ls {kept} | wc -l); cp "$1" {kept}/$n; echo Submitted batch job 7$n'
    pretend(
        monkeypatch, tmp_path / "bin", sbatch=sbatch, squeue="exit 0", **dict.fromkeys(("srun", "scontrol"), "exit 1")
    )
    return lambda: [(kept / str(n)).read_text() for n in range(len(list(kept.iterdir())))]


def test_a_dry_run_shows_what_sbatch_is_given_to_the_letter_and_writes_nothing(svdstory, tmp_path, asked):
    before = sorted(tmp_path.rglob("*"))
    _, told, _ = svdstory("submit", *WORDS, "--units-per-task", "1", "--dry-run")
    assert sorted(tmp_path.rglob("*")) == before
    assert "4 units in 4 tasks of 1 to 1, 2 arrays of at most 2, 1 at once" in told and "GPU hours" in told
    status, _, _ = svdstory("submit", *WORDS, "--units-per-task", "1")
    shown = re.split(r"\n# [^\n]*: sbatch is given\n", told)[1:]
    assert status == 0 and len(shown) == 3
    for script, given in zip(shown, asked(), strict=True):
        given = re.sub(r"svdstory-[0-9a-f]{8}-", "svdstory-TOKEN-", given)
        assert script.strip() == re.sub(r"(afterany:|:)7(\d)", r"\1JOB\2", given).strip()


def test_a_dry_run_counts_what_is_there_already(svdstory, tmp_path, asked):
    svdstory("submit", *WORDS, "--without-metrics")
    (first, *_) = read_plan(plan_path(tmp_path / "my run")).units
    Store(tmp_path / "my run").publish(first, {"0.png": b"x"}, {}, Attempt.here())
    _, told, _ = svdstory("submit", *WORDS, "--without-metrics", "--dry-run")
    assert "3 units in " in told and "/submissions/0002/" in told


def test_a_dry_run_where_all_is_there_says_so_and_of_a_smaller_plan_refuses(svdstory, tmp_path, asked):
    svdstory("submit", *WORDS)
    run = tmp_path / "my run"
    publish(run, *read_plan(plan_path(run)).units)
    (submission,) = submissions(run)
    (submission.folder / "reduced.json").write_text('{"complete": true}')
    assert "nothing to add: 4 units are finished, 0 queued" in svdstory("submit", *WORDS, "--dry-run")[1]
    status, _, told = svdstory("submit", *WORDS, "--sets", "blue-bus", "--dry-run")
    assert status == 2 and "--replace" in told
    status, _, told = svdstory("submit", *WORDS, "--sets", "blue-bus", "--dry-run", "--replace")
    assert status == 0


def test_a_dry_run_leaves_out_the_nodes_that_are_named(svdstory, asked):
    assert "#SBATCH --exclude='n[3-4]'" in svdstory("submit", *WORDS, "--exclude", "n[3-4]", "--dry-run")[1]


def test_plan_with_a_site_shows_the_same_where_there_is_no_slurm(svdstory, tmp_path, monkeypatch):
    (tmp_path / "site.yaml").write_text("{extends: lab, submit_cap: 20}")
    monkeypatch.setenv("PATH", "")
    _, dry, _ = svdstory("submit", *WORDS, "--dry-run")
    _, planned, _ = svdstory("plan", *WORDS)
    assert planned.endswith(dry) and "squeue: no such command here" in dry and "#SBATCH --partition=gpu" in dry


@pytest.mark.parametrize(
    "out, expected", [("a:b", "':' in the path would be misread by PYTHONPATH"), ("run", "does not lie in /shared")]
)
def test_a_dry_run_refuses_what_a_submit_refuses(svdstory, tmp_path, out, expected):
    (tmp_path / "site.yaml").write_text("{extends: lab, shared: /shared}")
    status, _, told = svdstory("submit", *WORDS[:-1], out, "--dry-run")
    assert status == 2 and expected in told


def test_logs_without_a_unit_groups_failures_by_cause(tmp_path):
    units = list(planned(tmp_path, seeds=tuple(range(8))).units)
    store = Store(tmp_path)
    for n, key in enumerate(units[:7]):
        cause, words = ("out of memory", "Traceback\nno room") if n < 5 else ("bug", f"wrong {n}")
        store.record_failure(key, cause, words, attempt("17", 0, "n1", n))
    publish(tmp_path, units[0])  # a later attempt made it
    told = list(by_cause(tmp_path))
    assert told[0] == f"4 × out of memory: svdstory retry {tmp_path} --cause out-of-memory"
    assert told[1] == "  4 × no room" and units[1][:8] in told[2]
    assert [line for line in told if "bug" in line or "wrong" in line][1:] == ["  1 × wrong 5", "  1 × wrong 6"]


def test_logs_of_a_run_without_failures_says_so(tmp_path):
    planned(tmp_path)
    assert list(by_cause(tmp_path)) == [f"no unit of {tmp_path} has failed and is not finished"]


def test_logs_of_a_unit_that_is_not_there_names_the_nearest(tmp_path):
    unit, *_ = planned(tmp_path).units
    assert list(of_unit(tmp_path, unit[:9])) == [f"{unit} (red-fox, sdxl, seed 0): missing"]
    with pytest.raises(InputError, match=rf"did you mean '{unit}'"):
        next(of_unit(tmp_path, unit[:-1] + "x"))


def test_logs_of_a_unit_of_several_processes_are_of_the_one_that_had_it(tmp_path):
    keys = list(planned(tmp_path, seeds=(0, 1, 2, 3)).units)
    submission = intend(tmp_path, 1, [keys], [1])
    submission.record(submission.arrays[0], job="17")
    for process in (0, 1):
        (submission.slurm_folder / f"17_{process}_log.out").write_text(f"I am {process}")
    assert ["I am 1" in "".join(of_unit(tmp_path, key)) for key in keys] == [False, True, False, True]


def test_a_cancel_while_a_submit_is_at_work_says_that_more_may_come(svdstory, tmp_path, monkeypatch):
    planned(tmp_path / "run")
    submission = intend(tmp_path / "run", 1, [["a" * 24]], [1])
    monkeypatch.setattr(Submission, "launcher_lives", lambda _: True)
    pretend(monkeypatch, tmp_path / "bin", squeue="exit 0", scancel="exit 0")
    status, _, errors = svdstory("cancel", "run")
    assert status == 1 and "cancel again when it has ended" in errors
    for array in submission.arrays:
        submission.record(array, job="17")
    assert svdstory("cancel", "run")[0] == 0


@pytest.mark.parametrize(
    "words, expected",
    [
        (("reduce", "--figures", "tradeof"), "--figures tradeof: unknown figure 'tradeof' (did you mean 'tradeoff'?)"),
        (("reduce", "--lang", "de"), "--lang de: language 'de': expected en or ru"),
        (("curate", "--method", "sdlx"), "--method sdlx: method 'sdlx' is not in this run (did you mean 'sdxl'?)"),
        (("spectra", "--set", "red-foxx"), "--set red-foxx: not in "),
        (("spectra", "--method", "sdxl", "--seed", "7"), "--seed 7: not in "),
        (("score", "--scorer", "clipscor"), "--scorer: unknown scorer 'clipscor' (did you mean 'clipscore'?)"),
        (("retry", "--site", "labb"), "--site labb: unknown site 'labb' (did you mean 'lab'?)"),
        (("retry", "--site", "lab", "--cause", "bugg"), "--cause bugg: "),
    ],
)
def test_whatever_command_its_errors_name_the_option(svdstory, tmp_path, monkeypatch, words, expected):
    planned(tmp_path)
    pretend(monkeypatch, tmp_path / "bin", **dict.fromkeys(("sbatch", "srun", "squeue", "scontrol"), "exit 0"))
    status, _, told = svdstory(words[0], tmp_path, *words[1:])
    assert status == 2 and told.startswith(f"svdstory: {expected}")
