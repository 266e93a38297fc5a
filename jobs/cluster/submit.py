"""Ask Slurm for what a run still lacks: array jobs of tasks, and a reduce job after them, through submitit.

Asking twice adds nothing: what is finished or queued is left alone. A launcher may be killed at any moment (ledger.py).
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from svdstory.jobs.cluster import launch, preflight
from svdstory.jobs.cluster.chunks import shares
from svdstory.jobs.cluster.freeze import freeze
from svdstory.jobs.cluster.lacking import Lack, describe, lacking, nothing_to_add, room, slices
from svdstory.jobs.cluster.parameters import parameters, python_of, reduce_parameters
from svdstory.jobs.cluster.sites import Site
from svdstory.jobs.queue import holders, ledger, scheduler
from svdstory.jobs.queue.holders import Live
from svdstory.jobs.queue.ledger import Array, Submission
from svdstory.jobs.queue.scheduler import SlurmError
from svdstory.jobs.study.code import identity
from svdstory.jobs.study.plan import plan_path, read_plan


@dataclass(frozen=True)
class Asked:
    """What a submit found and did. `submission` is None where there was nothing to add."""

    submission: Submission | None
    added: int  # units
    refused: list[str]  # Slurm's words; empty: all that was asked is queued


@dataclass(frozen=True)
class Standing:
    """What Slurm holds of a run at this moment."""

    live: list[Live]
    adopted: list[Array]  # jobs of a killed launcher, found again

    @property
    def jobs(self) -> list[str]:
        """Ids of the jobs with live tasks."""
        return list(dict.fromkeys(holder.element.job for holder in self.live if holder.array.count))

    @property
    def reduce(self) -> list[str]:
        """Ids of the live reduce jobs."""
        return [holder.element.job for holder in self.live if not holder.array.count]


def submit_missing(
    run: Path,
    site: Site,
    *,
    cause: str | None = None,
    keys: list[str] | None = None,
    per_task: int | None = None,
    exclude: list[str] | None = None,
    metrics: bool = True,
    turn: int = 0,
    say: Callable[[str], None] = print,
) -> Asked:
    """Queue the units of the run's plan that are neither queued nor finished and scored, and a reduce job after them.

    With `cause`, only those whose last attempt failed so (`any`: that failed); with `keys`, only these. `per_task`
    units make a task; unset, as many as fit its time limit. `exclude`: nodes to leave out; None: those that the run's
    records blame (nodes.py). Without `metrics` nothing is scored. `turn` counts the rounds of reduce jobs that asked
    before. `say` is told what will be asked for. Where all is there or queued, and a report stands or its job waits,
    nothing is added.

    Raises InputError before anything is queued, and SlurmError where the controller does not answer or there is none.
    """
    scheduler.require("sbatch", "srun")  # submitit wants both
    path = plan_path(run)
    plan = read_plan(path)
    scorers = plan.scorers if metrics else ()
    for note in preflight.check(plan, run, site, scorers):
        say(note)
    submission = None
    while submission is None:  # another launcher may take the number that we saw free: then look again
        number = ledger.next_number(run)
        standing = stand(run)
        for array in standing.adopted:
            say(f"job {array.job} was found again by its name ({array.name}): its launcher did not write it down")
        lack = lacking(plan, run, site, standing.live, room(site), scorers, cause, per_task, exclude, keys)
        if not lack.keys and (standing.reduce or is_reduced(run)):
            say(nothing_to_add(lack))
            return Asked(None, 0, [])
        if not lack.keys and keys is not None:
            return Asked(None, 0, [])
        preflight.check_files(plan, run, len(lack.tasks) + len(lack.scoring))
        facts = {"plan": str(path.relative_to(run)), "code": identity()["hash"], "site": site.model_dump(mode="json")}
        facts |= {"scorers": list(scorers), "round": turn}
        tasks, sizes = lack.tasks + lack.scoring, lack.sizes + lack.scoring_sizes
        submission = ledger.intend(run, number, tasks, sizes, slices(plan, run, site, lack, scorers), **facts)
        if submission is None:
            time.sleep(0.5)  # a network file system may list the other's folder late
    say(describe(lack, site))
    with submission.heartbeat():
        code = freeze(run)  # after the intent that names it: `clean` leaves such code alone
        refused = _queue(submission, site, code, standing, lack)
    return Asked(submission, len(lack.keys), refused)


def is_reduced(run: Path) -> bool:
    """Whether a reduce job has built a report without holes. Units only ever come, so it holds from then on."""
    plans = [submission.intent["plan"] for submission in ledger.submissions(run) if submission.reduced]
    return str(plan_path(run).relative_to(run)) in plans


def stand(run: Path) -> Standing:
    """Adopt what killed launchers left, and ask the controller once for all jobs of the run."""
    known = ledger.submissions(run)
    adopted = [array for s in known for array in ledger.settle(s, partial(launch.leave_pickles, s))]
    return Standing(holders.live(known), adopted)


def _queue(submission: Submission, site: Site, code: Path, standing: Standing, lack: Lack) -> list[str]:
    """sbatch array after array, writing down each answer; then the reduce job. Returns Slurm's refusals."""
    arrays, jobs, refused = submission.arrays, [], []
    for array, asked in requests(arrays, site, code, standing.jobs, lack, jobs):
        if refused and (array.count or not jobs):  # what was queued before runs, and a reduce job reports it
            submission.record(array, refused="not asked for after the refusal before it")
            continue
        try:
            job = launch.queue(submission, array, asked, python_of(site))
        except launch.Unanswered as error:
            return [*refused, error.words]  # left open: the next submit looks for it by name
        except SlurmError as error:
            submission.record(array, refused=error.words)
            refused.append(error.words)
            continue
        submission.record(array, job=job)
        jobs.append(job)
    if standing.reduce and submission.arrays[-1].job:
        scheduler.cancel(standing.reduce, pending_only=True)  # the new one waits for their tasks too
    return refused


def requests(
    arrays: list[Array], site: Site, code: Path, before: list[str], lack: Lack, jobs: list[str]
) -> Iterator[tuple[Array, dict]]:
    """Each array with its parameters, in the order of asking, and last the reduce job, which waits for all.

    `before` are earlier jobs of the run that live. The caller appends to `jobs` the id that each got.
    """
    *of_tasks, of_reduce = arrays
    sampling, scoring = of_tasks[: len(lack.sizes)], of_tasks[len(lack.sizes) :]
    for array, share in zip(sampling, shares(len(sampling), site.parallel), strict=True):
        # of more arrays than may run at once, each waits for the one that many places before it
        after = jobs[-site.parallel] if len(jobs) >= site.parallel else None
        yield array, parameters(site, array, code, share, lack.exclude, after)
    sampled = before + jobs
    for array, share in zip(scoring, shares(len(scoring), site.parallel), strict=True):
        yield array, reduce_parameters(site, array, code, sampled) | {"array_parallelism": share}
    yield of_reduce, reduce_parameters(site, of_reduce, code, before + jobs)
