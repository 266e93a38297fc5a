"""Who holds units: the array elements of a run's submissions that Slurm has not ended yet, or has cancelled."""

from dataclasses import dataclass

from svdstory.jobs.queue import scheduler
from svdstory.jobs.queue.attempts import TaskAttempt
from svdstory.jobs.queue.ledger import Array, Submission
from svdstory.jobs.queue.scheduler import Element, SlurmError
from svdstory.jobs.study.store import Failure


@dataclass(frozen=True)
class Live:
    """An array element or reduce job that Slurm has not ended yet."""

    submission: Submission
    array: Array
    element: Element

    @property
    def units(self) -> list[str]:
        """Keys of the units of its task; the reduce job has none."""
        return self.submission.tasks[self.array.first + (self.element.index or 0)] if self.array.count else []


def live(known: list[Submission]) -> list[Live]:
    """What Slurm still holds of the submissions: one squeue. Raises SlurmError where the controller does not answer.

    By the jobs' names, so that a job whose launcher died before writing its id down is seen too.
    """
    places = {array.name: (submission, array) for submission in known for array in submission.arrays}
    return [Live(*places[e.name], e) for e in scheduler.queue(names=list(places)) if e.live and e.name in places]


def to_come(holders: list[Live], failures: dict[str, list[Failure]], turns: list[TaskAttempt]) -> set[str]:
    """The units in the hands of live elements, finished ones among them.

    Left out is what failed in the present turn of an element that runs: it does not come to that unit again.
    """
    restarts = {turn.job: turn.restart for turn in sorted(turns, key=lambda turn: turn.restart)}
    coming: set[str] = set()
    for holder in holders:
        task, runs = holder.element.task, holder.element.state == "RUNNING"
        turn = f"{task}-r{restarts.get(task, 0)}-"
        failed = {key for key in holder.units for f in failures.get(key, []) if runs and f.attempt.startswith(turn)}
        coming.update(key for key in holder.units if key not in failed)
    return coming


def cancelled(known: list[Submission]) -> set[str]:
    """The units whose last holder was cancelled. Raises SlurmError where the controller does not answer."""
    names, states = [array.name for submission in known for array in submission.arrays if array.count], {}
    try:
        states = {(past.name, past.index or 0): past.state for past in scheduler.history(names=names)}
    except SlurmError:
        pass  # without accounting, the controller's memory is all there is
    states |= {(element.name, element.index or 0): element.state for element in scheduler.queue(names=names)}
    last: dict[str, bool] = {}
    for submission in known:
        tasks = submission.tasks
        for array in submission.arrays:
            for index in range(array.count):
                ended_so = states.get((array.name, index)) == "CANCELLED"
                last |= dict.fromkeys(tasks[array.first + index], ended_so)
    return {key for key, ended_so in last.items() if ended_so}
