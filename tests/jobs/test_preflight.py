"""What is known before anything is queued: paths that Slurm would misread, folders that nodes do not see, inodes."""

import os
from types import SimpleNamespace

import pytest

from svdstory.jobs.cluster.preflight import check_files, check_paths
from svdstory.jobs.cluster.sites import load_site
from svdstory.jobs.study.run_folder import files_of
from svdstory.pipeline.config.strict import InputError
from tests.jobs.synthetic import synthetic_run
from tests.jobs.test_run_folder import plan_of

SITE = load_site("generic")


@pytest.mark.parametrize("name", ["50%", "a:b", "back\\slash", "two\nlines"])
def test_a_path_that_slurm_or_python_would_misread_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="would be misread by"):
        check_paths(tmp_path / name, SITE)


def test_spaces_quotes_and_letters_of_any_alphabet_are_fine(tmp_path):
    check_paths(tmp_path / 'Мой "run" it\'s', SITE)


def test_a_run_that_nodes_do_not_see_is_refused_also_behind_a_link(tmp_path):
    seen, unseen = tmp_path / "seen", tmp_path / "unseen"
    seen.mkdir()
    unseen.mkdir()
    (seen / "link").symlink_to(unseen)
    site = SITE.model_copy(update={"shared": str(seen)})
    check_paths(seen / "run", site)
    for run in (unseen / "run", seen / "link" / "run"):
        with pytest.raises(InputError, match="the folder that nodes see"):
            check_paths(run, site)


def inodes_left(monkeypatch, count: int) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_files=10**6, f_favail=count))


def test_too_few_inodes_for_the_missing_units_are_refused_and_finished_ones_need_none(tmp_path, monkeypatch):
    inodes_left(monkeypatch, 3)
    with pytest.raises(InputError, match="3 more files may be made there"):
        check_files(plan_of(tmp_path / "empty"), tmp_path, tasks=1)
    check_files(synthetic_run(tmp_path / "whole", methods=("sdxl",), seeds=(0,)), tmp_path / "whole", tasks=0)


def test_numbers_tasks_and_the_report_take_inodes_too(tmp_path, monkeypatch):
    plan = plan_of(tmp_path)
    of_units = sum(len(plan.sets[cell.set].settings) + 2 for cell in plan.units.values())
    inodes_left(monkeypatch, of_units + 50)
    with pytest.raises(InputError, match="are needed for"):
        check_files(plan, tmp_path, tasks=1)
    assert files_of(plan, plan.units, 7) - files_of(plan, plan.units, 6) == 8  # Slurm's five, and three of numbers


def test_a_file_system_that_counts_no_inodes_has_room(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_files=0, f_favail=0))
    check_files(plan_of(tmp_path), tmp_path, tasks=1)
