"""sbatch through submitit, for one array of a submission or its reduce job."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from svdstory.jobs.node import task
from svdstory.jobs.queue import scheduler
from svdstory.jobs.queue.ledger import Array, Submission
from svdstory.jobs.queue.scheduler import SlurmError


class Unanswered(SlurmError):
    """sbatch failed, and the controller does not say whether the job was queued all the same."""


def queue(submission: Submission, array: Array, parameters: dict, python: str) -> str:
    """Queue the tasks of `array` (the reduce job, where it has none). Returns Slurm's job id.

    Raises SlurmError with sbatch's words where it refused, and Unanswered where nobody can tell.
    """
    import submitit

    # on the class, since map_array makes an executor of its own; submitit's takes the first `job N` that is printed
    submitit.SlurmExecutor._get_job_id_from_submission_command = staticmethod(_job_id)
    executor = submitit.SlurmExecutor(folder=submission.slurm_folder, python=python)
    executor.update_parameters(**parameters)
    try:
        with _outside_of_any_job():
            if array.count:
                folder, numbers = str(submission.folder), range(array.first, array.first + array.count)
                jobs = executor.map_array(task.run_task, [folder] * array.count, numbers)
            else:
                jobs = [executor.submit(_reduce_call(), str(submission.folder))]
        return jobs[0].job_id.split("_")[0]
    except submitit.core.utils.UncompletedJobError as error:
        return _after_all(submission, array, str(error))
    except submitit.core.utils.FailedSubmissionError as error:
        return _after_all(submission, array, str(error))
    finally:
        _sweep(submission.slurm_folder)


def _job_id(printed: bytes | str) -> str:
    """The id that sbatch itself tells. Raises submitit's FailedSubmissionError where it tells none."""
    from submitit.core.utils import FailedSubmissionError

    text = printed if isinstance(printed, str) else printed.decode(errors="replace")
    job = scheduler.job_id(text)
    if job is None:
        raise FailedSubmissionError(f"no job id in what sbatch printed: {text}")
    return job


@contextmanager
def _outside_of_any_job() -> Iterator[None]:
    """Without the variables that an allocation or a user's shell set for other jobs: sbatch would obey them."""
    before = dict(os.environ)
    for name in before.keys() - scheduler.clean_environment().keys():
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)


def script(submission: Submission, array: Array, parameters: dict, python: str) -> str:
    """What `queue` would give to sbatch, to the letter. Nothing is written, and no Slurm need be here."""
    from submitit.slurm.slurm import SlurmExecutor

    class Writer(SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:  # else it refuses to be made where there is no srun
            return 1

    executor = Writer(folder=submission.slurm_folder, python=python)
    executor.update_parameters(**parameters)
    if array.count > 1:
        executor.parameters["map_count"] = array.count
    return executor._make_submission_file_text(executor._submitit_command_str, uid="")


def _reduce_call():
    """What the reduce job runs: it asks again for what is missing, and so imports this module."""
    from svdstory.jobs.cluster.reduce_job import run_reduce

    return run_reduce


def _after_all(submission: Submission, array: Array, words: str) -> str:
    """A failed sbatch may have queued its job (a time-out after the fact): ask by name before believing it."""
    try:
        found = scheduler.find([array.name])
    except SlurmError:
        raise Unanswered(["sbatch"], words) from None
    if array.name not in found:
        raise SlurmError(["sbatch"], words)
    leave_pickles(submission, array, found[array.name])
    return found[array.name]


def leave_pickles(submission: Submission, array: Array, job: str) -> None:
    """Write the pickles that submitit's tasks wait for, where a launcher was killed before it did."""
    from submitit.core.utils import DelayedSubmission, JobPaths

    folder = str(submission.folder)
    calls = [DelayedSubmission(task.run_task, folder, array.first + i) for i in range(array.count)]
    for index, call in enumerate(calls or [DelayedSubmission(_reduce_call(), folder)]):
        identity = f"{job}_{index}" if array.count > 1 else job
        path = JobPaths(submission.slurm_folder, job_id=identity).submitted_pickle
        if not path.exists():
            call.set_timeout(submission.intent["site"]["minutes"], 0)
            draft = path.with_name(f".{path.name}")
            call.dump(draft)
            draft.rename(path)


def _sweep(folder: Path) -> None:
    """Remove pickles that submitit made for jobs that were refused: those not named by a job."""
    for path in folder.glob("*.pkl"):
        if len(path.stem) == 32 and "_" not in path.stem:
            path.unlink(missing_ok=True)
