"""clean removes what nothing reads any more, and nothing else."""

import os
import shutil

import pytest

from svdstory.jobs.cluster.clean import drafts_elsewhere, litter, remove
from svdstory.jobs.cluster.freeze import code_name, freeze
from svdstory.jobs.queue.ledger import intend
from svdstory.jobs.queue.scheduler import SlurmError
from svdstory.jobs.study.store import Attempt, Store
from tests.jobs.pretend import element, pretend

KEY = "a" * 24
HOST = Attempt.here().host
NO_PROCESS = 2**22 + 1  # no kernel gives this pid


def draft(run, job: str, host: str = "n1", pid: int = NO_PROCESS):
    path = run / "tmp" / f"{KEY}.{Attempt(job, 0, host, pid)}"
    path.mkdir(parents=True)
    return path


def test_drafts_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path):
    dead, living = draft(tmp_path, "local", HOST), draft(tmp_path, "local", HOST, os.getpid())
    remove(litter(tmp_path))
    assert not dead.exists() and living.exists()


def test_drafts_of_processes_on_other_machines_stay_and_are_told(tmp_path):
    elsewhere = draft(tmp_path, "local", "login2")
    draft(tmp_path, "local", HOST)
    remove(litter(tmp_path))
    assert elsewhere.exists() and drafts_elsewhere(tmp_path) == {"login2": 1}


def test_drafts_of_a_live_job_that_is_in_no_submission_stay(tmp_path, monkeypatch):
    """A job of plain sbatch (slurm/run.sbatch), or `svdstory run` in salloc."""
    live, ended, ended_element = draft(tmp_path, "17"), draft(tmp_path, "18"), draft(tmp_path, "19_3")
    running = element("svdstory", "17", "N/A")
    pretend(monkeypatch, tmp_path / "bin", squeue=f'[[ "$*" = *--jobs=17,18,19* ]] && {running}')
    remove(litter(tmp_path))
    assert live.exists() and not ended.exists() and not ended_element.exists()


def test_where_the_queue_is_not_known_nothing_is_litter(tmp_path, monkeypatch):
    draft(tmp_path, "17")
    pretend(monkeypatch, tmp_path / "bin", squeue="echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(SlurmError, match="Unable to contact slurm controller"):
        litter(tmp_path)


def test_records_of_failures_go_only_when_the_unit_is_finished(tmp_path):
    store, done, damaged, missing = Store(tmp_path), "a" * 24, "b" * 24, "c" * 24
    for key in (done, damaged):
        store.publish(key, {"0.png": b"x"}, {}, Attempt.here())
    (store.folder(damaged) / "0.png").unlink()
    for key in (done, damaged, missing):
        store.record_failure(key, "bug", "a bug", Attempt.here())
    remove(litter(tmp_path))
    assert set(store.failures()) == {damaged, missing}


@pytest.mark.parametrize(
    "recorded, queued, stays",
    [
        (True, True, True),
        (True, False, False),
        (False, True, True),  # its launcher was killed between sbatch and writing the id down
        (False, False, True),  # its launcher is between intent and sbatch
    ],
)
def test_code_and_pickles_stay_while_a_job_or_a_launcher_needs_them(tmp_path, monkeypatch, recorded, queued, stays):
    submission, code = intend(tmp_path, 1, [[KEY]], [1], code=code_name()), freeze(tmp_path)
    pickle = submission.slurm_folder / "17_submitted.pkl"
    pickle.touch()
    array, reduce = submission.arrays
    submission.record(reduce, job="18")
    if recorded:
        submission.record(array, job="17")
    pretend(monkeypatch, tmp_path / "bin", squeue=element(array.name, index="N/A") if queued else "exit 0")
    remove(litter(tmp_path))
    assert pickle.exists() == stays and code.exists() == stays


def test_a_clean_that_is_killed_leaves_no_half_of_the_code_under_its_name(tmp_path, monkeypatch):
    code = freeze(tmp_path)
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", lambda path, **_: (path / "svdstory" / "jobs" / "node" / "task.py").unlink())
        remove(litter(tmp_path))
    assert not code.exists() and (freeze(tmp_path) / "svdstory" / "jobs" / "node" / "task.py").exists()
    remove(litter(tmp_path))
    assert not list((tmp_path / "code").iterdir())


def test_a_run_without_litter_has_none(tmp_path):
    assert litter(tmp_path) == []
