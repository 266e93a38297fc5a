"""clean removes what nothing reads any more, and nothing else."""

import os
import shutil

import pytest

from svdstory.jobs.cluster.clean import drafts_elsewhere, litter, remove
from svdstory.jobs.cluster.freeze import freeze
from svdstory.jobs.queue.ledger import intend
from svdstory.jobs.queue.scheduler import SlurmError
from svdstory.jobs.study.code import identity
from svdstory.jobs.study.experiment import Experiment
from svdstory.jobs.study.plan import make_plan, write_plan
from svdstory.jobs.study.store import Attempt, Store
from svdstory.pipeline.config.strict import InputError
from tests.jobs.pretend import NO_PROCESS, attempt, element, pretend

KEY = "a" * 24


@pytest.fixture
def run(tmp_path):
    """A run folder: one with a plan."""
    folder = tmp_path / "run"
    write_plan(make_plan("small", Experiment(sets=("red-fox",), methods=("sdxl",), model="tiny"), folder), folder)
    return folder


HOST = Attempt.here().host


def draft(run, job: str, host: str = "n1", pid: int = NO_PROCESS):
    path = run / "tmp" / f"{KEY}.{attempt(job, host=host, pid=pid)}"
    path.mkdir(parents=True)
    return path


def test_drafts_of_dead_processes_go_and_those_of_living_ones_stay(run):
    dead, living = draft(run, "local", HOST), draft(run, "local", HOST, os.getpid())
    remove(litter(run))
    assert not dead.exists() and living.exists()


def test_drafts_of_processes_on_other_machines_stay_and_are_told(run):
    elsewhere = draft(run, "local", "login2")
    draft(run, "local", HOST)
    remove(litter(run))
    assert elsewhere.exists() and drafts_elsewhere(run) == {"login2": 1}


def test_drafts_of_numbers_and_failures_go_with_their_writer_and_what_is_published_stays(run, tmp_path, monkeypatch):
    pretend(monkeypatch, tmp_path / "bin", squeue=element("svdstory", "17", "N/A"))
    (run / "scores" / "embeddings").mkdir(parents=True)
    (run / "failures").mkdir()
    names = {job: f"{attempt(job, host='n1')}.0123abcd.jsonl" for job in ("17", "18")}
    dead = [run / "scores" / f".{names['18']}", run / "failures" / f".{KEY}.{attempt('18', host='n1')}"]
    dead.append(run / "scores" / "embeddings" / ".embeddings-n1-7-0123abcd.safetensors.tmp")
    others = [run / "scores" / names["18"], run / "scores" / f".{names['17']}", run / "scores" / ".mine.jsonl"]
    young = run / "scores" / "embeddings" / ".embeddings-n1-8-0123abcd.safetensors.tmp"
    for path in (*dead, *others, young):
        path.write_text("x")
    os.utime(dead[-1], (0, 0))
    found = litter(run)
    assert sorted(path for sort in found for path in sort.paths) == sorted(dead)
    remove(found)
    assert not any(path.exists() for path in dead) and all(path.exists() for path in (*others, young))


def test_drafts_of_a_live_job_that_is_in_no_submission_stay(run, tmp_path, monkeypatch):
    """A job of plain sbatch (slurm/run.sbatch), or `svdstory run` in salloc."""
    live, ended, ended_element = draft(run, "17"), draft(run, "18"), draft(run, "19_3")
    running = element("svdstory", "17", "N/A")
    pretend(monkeypatch, tmp_path / "bin", squeue=f'[[ "$*" = *--jobs=17,18,19* ]] && {running}')
    remove(litter(run))
    assert live.exists() and not ended.exists() and not ended_element.exists()


def test_where_the_queue_is_not_known_nothing_is_litter(run, tmp_path, monkeypatch):
    draft(run, "17")
    pretend(monkeypatch, tmp_path / "bin", squeue="echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(SlurmError, match="Unable to contact slurm controller"):
        litter(run)


def test_records_of_failures_go_only_when_the_unit_is_finished(run):
    store, done, damaged, missing = Store(run), "a" * 24, "b" * 24, "c" * 24
    for key in (done, damaged):
        store.publish(key, {"0.png": b"x"}, {}, Attempt.here())
    (store.folder(damaged) / "0.png").unlink()
    for key in (done, damaged, missing):
        store.record_failure(key, "bug", "a bug", Attempt.here())
    remove(litter(run))
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
def test_code_and_pickles_stay_while_a_job_or_a_launcher_needs_them(
    run, tmp_path, monkeypatch, recorded, queued, stays
):
    submission, code = intend(run, 1, [[KEY]], [1], code=identity()["hash"]), freeze(run)
    pickle = submission.slurm_folder / "17_submitted.pkl"
    pickle.touch()
    array, reduce = submission.arrays
    submission.record(reduce, job="18")
    if recorded:
        submission.record(array, job="17")
    pretend(monkeypatch, tmp_path / "bin", squeue=element(array.name, index="N/A") if queued else "exit 0")
    remove(litter(run))
    assert pickle.exists() == stays and code.exists() == stays


def test_a_clean_that_is_killed_leaves_no_half_of_the_code_under_its_name(run, tmp_path, monkeypatch):
    code = freeze(run)
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", lambda path, **_: (path / "svdstory" / "jobs" / "node" / "task.py").unlink())
        remove(litter(run))
    assert not code.exists() and (freeze(run) / "svdstory" / "jobs" / "node" / "task.py").exists()
    remove(litter(run))
    assert not list((run / "code").iterdir())


def test_code_that_a_launcher_announces_while_clean_is_at_work_stays(run):
    code, found = freeze(run), litter(run)
    intend(run, 1, [[KEY]], [1], code=identity()["hash"])  # it finds the copy there, and goes on to sbatch
    remove(found)
    assert (code / "svdstory" / "jobs" / "node" / "task.py").exists()


def test_drafts_of_spectra_go_with_their_writer(run):
    places = [run / "spectra" / f".{KEY}.{attempt(host=HOST, pid=pid)}" for pid in (NO_PROCESS, os.getpid())]
    places[0].parent.mkdir()
    for path in (*places, run / "spectra" / f"{KEY}.safetensors"):
        path.write_text("x")
    remove(litter(run))
    assert [path.exists() for path in places] == [False, True] and (run / "spectra" / f"{KEY}.safetensors").exists()


def test_a_run_without_litter_has_none(run):
    assert litter(run) == []


def test_a_folder_that_is_no_run_is_left_as_it_is(tmp_path):
    mine = [tmp_path / "code" / "thesis.tex", tmp_path / "corrupt" / "disk.img", tmp_path / "code" / ("a" * 12) / "x"]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    with pytest.raises(InputError, match="no plan here"):
        litter(tmp_path)
    assert all(path.exists() for path in mine)


def test_names_that_svdstory_does_not_give_stay_also_in_a_run(run, tmp_path, monkeypatch):
    pretend(monkeypatch, tmp_path / "bin", squeue="exit 0")
    submission = intend(run, 1, [], [])
    submission.record(submission.arrays[0], refused="by a test")
    mine = [
        run / "code" / "thesis.tex",
        run / "code" / "library-1.2",
        run / "corrupt" / "disk.img",
        run / "failures" / f"{KEY}.txt",
        run / "tmp" / "letter.local-r0-n1-17",
        submission.slurm_folder / "model.pkl",
    ]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    remove(litter(run))
    assert all(path.exists() for path in mine)
