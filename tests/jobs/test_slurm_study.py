"""From `submit` to the report on a real Slurm, undisturbed."""

from .study import Study


def test_a_submitted_study_ends_in_a_report_of_all_its_cells(undisturbed):
    assert undisturbed.finished() == undisturbed.units
    assert "index.html" in undisturbed.report()
    now = undisturbed.status()
    assert (now["done"], now["queued"], now["failed"], now["idle"]) == (undisturbed.units, 0, {}, 0)


def test_each_task_loads_the_model_once(undisturbed):
    assert undisturbed.loads() == len(undisturbed.submissions[0].tasks)


def test_a_task_makes_at_most_five_files_beside_its_units(undisturbed):
    submission = undisturbed.submissions[0]
    files = [path for path in submission.folder.rglob("*") if path.is_file()]
    of_the_submission = 1 + 2 * len(submission.arrays) + 4  # intent; answers and scripts; the reduce job's own
    assert len(files) - of_the_submission <= 5 * len(submission.tasks)


def test_submitting_a_finished_study_again_adds_nothing(undisturbed):
    assert "nothing to add: 12 units are finished, 0 queued" in undisturbed.submit()
    assert len(undisturbed.submissions) == 1
