"""What a user's shell, an allocation or a site's modules leave in the environment neither leaks nor is lost."""

import os
import subprocess

import pytest

from svdstory.jobs.cluster import launch
from svdstory.jobs.cluster.parameters import setup_of
from svdstory.jobs.cluster.sites import load_site
from svdstory.jobs.queue import scheduler
from svdstory.jobs.queue.ledger import intend
from tests.jobs.pretend import pretend

LEAKS = {
    "SBATCH_PARTITION": "another",
    "SLURM_JOB_ID": "1",
    "SLURM_CPUS_PER_TASK": "64",
    "SRUN_CONTAINER": "x",
    "SQUEUE_PARTITION": "another",
    "SQUEUE_STATES": "PENDING",
    "SACCT_FORMAT": "JobID",
}


@pytest.fixture
def in_an_allocation(tmp_path, monkeypatch):
    """Variables of an allocation and a user's habits; Slurm's commands write down which they see."""
    for name, value in {**LEAKS, "SLURM_CONF": "/etc/of-the-site.conf"}.items():
        monkeypatch.setenv(name, value)
    saw = f'env > "{tmp_path}/saw-$(basename "$0")"'
    pretend(monkeypatch, tmp_path / "bin", sbatch=f"{saw}; echo Submitted batch job 17", srun="exit 0", squeue=saw)

    def seen(command: str) -> set[str]:
        return {line.partition("=")[0] for line in (tmp_path / f"saw-{command}").read_text().splitlines()}

    return seen


def test_sbatch_sees_nothing_of_the_allocation_that_it_is_called_in(tmp_path, in_an_allocation):
    submission = intend(tmp_path, 1, [["a"]], [1], site={"minutes": 5})
    assert launch.queue(submission, submission.arrays[0], {}, "python") == "17"
    assert not in_an_allocation("sbatch") & LEAKS.keys() and "SLURM_CONF" in in_an_allocation("sbatch")
    assert os.environ["SBATCH_PARTITION"] == "another"  # the caller's own environment is as it was


def test_squeue_is_asked_without_the_users_filters(in_an_allocation):
    scheduler.queue(names=["svdstory-x-0"])
    assert not in_an_allocation("squeue") & LEAKS.keys() and "SLURM_CONF" in in_an_allocation("squeue")


def job(tmp_path, *setup: str) -> subprocess.CompletedProcess:
    """What a job's shell does with these set-up lines; then it tells its PYTHONPATH."""
    site = load_site("generic").model_copy(update={"setup": list(setup)})
    script = tmp_path / "script"
    lines = ["#!/bin/bash", *setup_of(site, tmp_path / "the code"), 'false; echo "began with $PYTHONPATH"']
    script.write_text("\n".join(lines))
    return subprocess.run(["bash", script], capture_output=True, text=True, env={"PATH": os.environ["PATH"]})


def test_what_modules_put_on_the_python_path_stays_behind_the_frozen_code(tmp_path):
    assert job(tmp_path, "export PYTHONPATH=/site/lib").stdout == f"began with {tmp_path}/the code:/site/lib\n"
    assert job(tmp_path).stdout == f"began with {tmp_path}/the code\n"


def test_a_set_up_line_that_fails_stops_the_task_with_its_words(tmp_path):
    module = 'module() { echo "Unable to locate a modulefile for $2" >&2; return 1; }'
    done = job(tmp_path, module, "if true; then", "true", "fi", "module load Python/4")
    assert done.returncode == 1 and "began" not in done.stdout
    assert "modulefile for Python/4" in done.stderr and "line 5 of setup:" in done.stderr


def test_what_a_sourced_file_or_a_function_copes_with_itself_does_not_stop_the_task(tmp_path):
    (tmp_path / "conda.sh").write_text("false\ntrue\n")
    done = job(tmp_path, f"source '{tmp_path}/conda.sh'", "activate() { false; true; }", "activate")
    assert done.returncode == 0 and "began" in done.stdout
