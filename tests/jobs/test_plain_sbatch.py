"""run.sbatch and reduce.sbatch, where login nodes may not run Python: set-up, shares, numbers that are true."""

import os
import subprocess
from pathlib import Path

import pytest

from svdstory.jobs.node.stop import OUTSIDE
from svdstory.jobs.queue.scheduler import share_of_units
from svdstory.pipeline.config.strict import InputError
from tests.jobs.pretend import pretend

SCRIPTS = Path(__file__).parents[2] / "slurm"


def array(first: int, last: int, count: int, mine: int) -> dict[str, str]:
    values = {"MIN": first, "MAX": last, "COUNT": count, "ID": mine}
    return {f"SLURM_ARRAY_TASK_{word}": str(value) for word, value in values.items()}


def test_each_element_of_an_array_makes_its_share_of_the_units():
    assert share_of_units({}) == (0, 1)
    assert [share_of_units(array(3, 5, 3, mine)) for mine in (3, 4, 5)] == [(0, 3), (1, 3), (2, 3)]


@pytest.mark.parametrize("gaps", [array(0, 7, 3, 3), array(0, 4, 3, 2)], ids=["0,3,7", "0-4:2"])
def test_an_array_with_gaps_is_refused_with_one_that_makes_all_units(gaps):
    with pytest.raises(InputError, match="3 elements between 0 and [47].*Queue 3 elements with --array=0-2"):
        share_of_units(gaps)


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Runs a script; gives what it asked of svdstory."""
    python = 'echo "$@" >> "$CALLS"'
    pretend(monkeypatch, tmp_path / "bin", srun='while [[ $1 = --* ]]; do shift; done; exec "$@"', python3=python)
    (tmp_path / "setup").write_text("echo the set-up reads $NOT_SET_ANYWHERE\n")

    def run(script: str, *words: str) -> list[str]:
        environment = {**os.environ, "CALLS": str(tmp_path / "calls"), "SVDSTORY_SETUP": str(tmp_path / "setup")}
        environment.pop("SVDSTORY_PYTHON", None)
        subprocess.run(["bash", SCRIPTS / script, *words], env=environment, check=True)
        return (tmp_path / "calls").read_text().splitlines()

    return run


def test_the_set_up_may_read_variables_that_are_not_set(calls):
    assert calls("run.sbatch", "report") == ["-m svdstory.jobs work --lead 120 report"]


def test_the_report_is_built_from_the_numbers_that_are_there(calls):
    assert calls("reduce.sbatch", "a run") == ["-m svdstory.jobs reduce a run"]


@pytest.mark.parametrize("state, requeued", [("RUNNING", True), ("CANCELLED", False)])
def test_a_task_in_a_container_is_requeued_by_the_script_unless_it_was_cancelled(
    tmp_path, monkeypatch, state, requeued
):
    calls = tmp_path / "calls"
    pretend(
        monkeypatch, tmp_path / "bin", srun=f"exit {OUTSIDE}", squeue=f"echo {state}", scontrol=f'echo "$@" > {calls}'
    )
    environment = {**os.environ, "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "20"}
    environment.pop("SVDSTORY_SETUP", None)
    done = subprocess.run(["bash", SCRIPTS / "run.sbatch", "report"], env=environment)
    assert done.returncode == OUTSIDE
    assert (calls.read_text() if calls.exists() else "") == ("requeue 17_3\n" if requeued else "")
