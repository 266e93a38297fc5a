"""What `submit` would ask of Slurm, to the letter: nothing is queued, nothing is written, and no Slurm need be here."""

from pathlib import Path

from svdstory.jobs.cluster import launch, preflight
from svdstory.jobs.cluster.lacking import describe, lacking, nothing_to_add, room
from svdstory.jobs.cluster.parameters import python_of
from svdstory.jobs.cluster.sites import Site
from svdstory.jobs.cluster.submit import is_reduced, requests
from svdstory.jobs.queue import holders, ledger
from svdstory.jobs.queue.holders import Live
from svdstory.jobs.queue.ledger import Array, Submission
from svdstory.jobs.queue.scheduler import SlurmError
from svdstory.jobs.study.code import identity
from svdstory.jobs.study.plan import Plan, plans_of

TOKEN = "TOKEN"  # in the jobs' names; a submit draws it by chance


def dry_run(
    plan: Plan,
    run: Path,
    site: Site,
    *,
    per_task: int | None = None,
    exclude: list[str] | None = None,
    metrics: bool = True,
) -> str:
    """Notes, the shape of the arrays, GPU hours, and each script that sbatch would be given.

    Slurm's own ids are JOB0, JOB1, ... Raises InputError for all that a submit refuses.
    """
    scorers = plan.scorers if metrics else ()
    notes = preflight.check(plan, run, site, scorers)
    live, places, silence = _queue(run, site)
    lack = lacking(plan, run, site, live, places, scorers, per_task=per_task, exclude=exclude)
    preflight.check_files(plan, run, len(lack.tasks) + len(lack.scoring))
    notes += [f"{silence}. What waits in a queue is not counted"] if silence else []
    is_plan = any(path.stem.endswith(plan.hash()) for path in plans_of(run)[-1:])
    if not lack.keys and is_plan and (not all(holder.array.count for holder in live) or is_reduced(run)):
        return "\n".join([*notes, nothing_to_add(lack)])
    told = [*notes, describe(lack, site)]
    number = max((s.number for s in ledger.submissions(run)), default=0) + 1
    folder = Submission(run / "submissions" / f"{number:04d}")
    arrays = [
        Array(n, *shape, None, None) for n, shape in enumerate(ledger.shapes(TOKEN, lack.sizes + lack.scoring_sizes))
    ]
    before, jobs = list(dict.fromkeys(holder.element.job for holder in live if holder.array.count)), []
    for array, asked in requests(arrays, site, run / "code" / identity()["hash"], before, lack, jobs):
        what = f"tasks {array.first} to {array.first + array.count - 1}" if array.count else "the reduce job"
        told.append(f"\n# {what}: sbatch is given\n{launch.script(folder, array, asked, python_of(site))}")
        jobs.append(f"JOB{array.number}")
    return "\n".join(told)


def _queue(run: Path, site: Site) -> tuple[list[Live], int | None, str]:
    """What is in the queue of this run, room for more jobs, and Slurm's silence in words (empty: it answered)."""
    try:
        return holders.live(ledger.submissions(run)), room(site), ""
    except SlurmError as error:
        return [], site.submit_cap, str(error)
