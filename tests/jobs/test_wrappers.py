"""Sites whose sbatch is a wrapper that says more than sbatch, or whose Slurm has no arrays."""

import pytest

from svdstory.jobs.cluster.sites import load_site
from svdstory.jobs.cluster.submit import submit_missing
from svdstory.jobs.queue.ledger import submissions
from svdstory.jobs.queue.scheduler import job_id
from tests.jobs.pretend import pretend
from tests.jobs.test_status import ABSENT, QUEUED, planned


@pytest.mark.parametrize(
    "printed, job",
    [
        ("Submitted batch job 101", "101"),
        ("you have job 5 waiting\nSubmitted batch job 101\n", "101"),
        ("Submitted batch job 101 on cluster gpu\njob 7 is older", "101"),
        ("checking quota: job 5 of 10\n101;gpu\n", "101"),
        ("101\n", "101"),
        ("sbatch: lua: Submitted job 5\n", None),
        ("", None),
    ],
)
def test_the_job_id_is_sbatchs_own_and_no_other_number(printed, job):
    assert job_id(printed) == job


def asked(tmp_path, monkeypatch, sbatch: str, site=None):
    planned(tmp_path)
    pretend(monkeypatch, tmp_path / "bin", **{**QUEUED, "sbatch": sbatch}, **ABSENT, squeue="exit 0")
    submit_missing(tmp_path, site or load_site("lab"), per_task=1, say=lambda text: None)
    return [array.job for array in submissions(tmp_path)[0].arrays]


def test_a_wrapper_that_speaks_of_another_job_does_not_make_it_ours(tmp_path, monkeypatch):
    jobs = asked(tmp_path, monkeypatch, "echo 'you have job 5 waiting'; echo Submitted batch job 101")
    assert jobs == ["101", "101"]


def test_where_slurm_has_no_arrays_each_task_is_a_job_of_its_own(tmp_path, monkeypatch):
    calls = tmp_path / "calls"
    sbatch = f"""grep -q '^#SBATCH --array' "${{@: -1}}" && {{ echo Invalid job array specification >&2; exit 1; }}
echo x >> '{calls}'; echo Submitted batch job 9$(wc -l < '{calls}')"""
    pretend(monkeypatch, tmp_path / "bin", scontrol="echo MaxArraySize = 0")
    monkeypatch.setitem(ABSENT, "scontrol", "echo 'MaxArraySize            = 0'")
    assert asked(tmp_path, monkeypatch, sbatch) == ["91", "92", "93"]
