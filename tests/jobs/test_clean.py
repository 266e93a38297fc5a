"""clean removes what nothing reads any more, and nothing else."""

import os

from svdstory.jobs.clean import litter, remove


def test_drafts_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path):
    dead, living = (tmp_path / "tmp" / f"{'a' * 24}.local-r0-here-{pid}" for pid in (2**22 + 1, os.getpid()))
    for draft in (dead, living):
        draft.mkdir(parents=True)
    remove(litter(tmp_path))
    assert not dead.exists() and living.exists()


def test_records_of_failures_go_when_the_unit_is_finished(tmp_path):
    done, missing = "a" * 24, "b" * 24
    (tmp_path / "units" / "aa" / done).mkdir(parents=True)
    (tmp_path / "failures").mkdir()
    for key in (done, missing):
        (tmp_path / "failures" / f"{key}.local-r0-here-1.json").write_text("{}")
    remove(litter(tmp_path))
    assert [path.name[0] for path in (tmp_path / "failures").iterdir()] == ["b"]


def test_a_run_without_litter_has_none(tmp_path):
    assert litter(tmp_path) == []
