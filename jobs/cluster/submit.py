"""Ask Slurm for what a run still lacks: array jobs of tasks, and a reduce job after them, through submitit.

Asking twice adds nothing: what is finished or queued is left alone. A launcher may be killed at any moment (ledger.py).
"""

import getpass
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from svdstory.jobs.cluster import launch, preflight
from svdstory.jobs.cluster.chunks import Cost, arrays, cut, guess, shares
from svdstory.jobs.cluster.freeze import freeze
from svdstory.jobs.cluster.parameters import parameters, python_of, reduce_parameters
from svdstory.jobs.cluster.sites import Site
from svdstory.jobs.queue import attempts, ledger, scheduler
from svdstory.jobs.queue.ledger import Array, Live, Submission
from svdstory.jobs.queue.nodes import bad_nodes
from svdstory.jobs.queue.scheduler import SlurmError
from svdstory.jobs.queue.slices import Slice
from svdstory.jobs.study.code import identity
from svdstory.jobs.study.plan import Plan, plan_path, read_plan
from svdstory.jobs.study.scores import Standing as Numbers
from svdstory.jobs.study.scores import read_standing
from svdstory.jobs.study.store import Store
from svdstory.pipeline.config.strict import InputError, nearest


@dataclass(frozen=True)
class Asked:
    """What a submit found and did. `submission` is None where there was nothing to add."""

    submission: Submission | None
    added: int  # units
    refused: list[str]  # Slurm's words; empty: all that was asked is queued


@dataclass(frozen=True)
class Lack:
    """What a run lacks, cut into the tasks that would make it."""

    finished: set[str]
    queued: set[str]
    keys: list[str]  # of the units to ask for
    tasks: list[list[str]]  # that sample, and score where the profile says `scorers_on: node`
    sizes: list[int]  # tasks of each array
    scoring: list[list[str]]  # tasks that score alone, after those: `scorers_on: array`
    scoring_sizes: list[int]
    cost: Cost
    exclude: list[str]  # nodes where units failed at once


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


def lacking(
    plan: Plan,
    run: Path,
    site: Site,
    live: list[Live],
    room: int | None,
    scorers: Iterable[str],
    cause: str | None = None,
    per_task: int | None = None,
    exclude: list[str] | None = None,
    only: list[str] | None = None,
) -> Lack:
    """The units that are neither finished and scored nor in the hands of `live` elements; of these, those that failed
    by `cause`, or `only` some.

    `room` more jobs may be queued; None: any number. Raises InputError as `cut` and `failed_so` do.
    """
    store, units = Store(run), list(plan.units)
    known = ledger.submissions(run)
    earlier = [turn for submission in known for turn in attempts.read(submission.folder)]
    finished, failures = store.finished(units), store.failures()
    standing, wanted = read_standing(run), scorers if site.scorers_on != "reduce" else ()
    complete = {key for key in finished if not standing.lacking(key, wanted)}
    queued = ledger.to_come(live, failures, earlier) & set(units) - complete
    keys = [key for key in units if key not in complete and key not in queued]
    keys.sort(key=failures.__contains__)  # what has failed before comes last: it must not keep others waiting
    keys = keys if cause is None else failed_so(keys, store, standing, cause)
    chosen = None if only is None else set(only)
    keys = [key for key in keys if chosen is None or key in chosen]
    cost = cost_of(plan, earlier)
    if exclude is None:
        methods = {key: cell.method for key, cell in plan.units.items()}
        exclude = bad_nodes(known, identity()["hash"], methods, finished, failures)
    apart = site.scorers_on == "array" and bool(wanted)
    tasks = cut([key for key in keys if not (apart and key in finished)], site, cost, room, per_task)
    scoring = cut(keys, site, cost, room and room - len(tasks), per_task) if apart else []
    most = _max_array(site) if keys else None
    return Lack(
        finished, queued, keys, tasks, arrays(len(tasks), most), scoring, arrays(len(scoring), most), cost, exclude
    )


def slices(plan: Plan, run: Path, site: Site, lack: Lack, scorers: Iterable[str]) -> Iterator[Slice]:
    """What each task has to do, and which shards hold numbers of its units already."""
    shards, scorers = read_standing(run).shards, tuple(scorers)
    kinds = [(lack.tasks, True, scorers if site.scorers_on == "node" else ()), (lack.scoring, False, scorers)]
    for tasks, sample, by in kinds:
        for keys in tasks:
            there = sorted({name for key in keys for name in shards.get(key, ())})
            yield Slice(plan.only(keys), sample, by, tuple(there))


def failed_so(keys: list[str], store: Store, numbers: Numbers, cause: str) -> list[str]:
    """Those of the units whose last attempt, or a scorer, failed by `cause` (`any`: failed).

    Raises InputError if there is none.
    """
    wanted = set(keys)
    scoring = {key: why.partition(":")[0] for causes in numbers.failed.values() for key, why in causes.items()}
    last = {key: why for key, why in scoring.items() if key in wanted}
    last |= {key: found[-1].cause for key, found in store.failures().items() if key in wanted}
    chosen = [key for key in keys if key in last and cause in (last[key], "any")]
    if not chosen:
        causes = sorted(set(last.values()))
        what = "has failed" if cause == "any" else f"failed by {cause!r}{nearest(cause, causes)}"
        raise InputError(
            f"{store.run}: no unit that is missing {what}. Causes: {', '.join(causes) or 'none'}. "
            "`svdstory submit` adds all that is missing.",
            key="cause",
        )
    return chosen


def is_reduced(run: Path) -> bool:
    """Whether a reduce job has built a report without holes. Units only ever come, so it holds from then on."""
    plans = [submission.intent["plan"] for submission in ledger.submissions(run) if submission.reduced]
    return str(plan_path(run).relative_to(run)) in plans


def nothing_to_add(lack: Lack) -> str:
    return f"nothing to add: {len(lack.finished)} units are finished, {len(lack.queued)} queued"


def describe(lack: Lack, site: Site) -> str:
    """What will be asked of Slurm, in words."""
    units, tasks, sizes, cost = len(lack.keys), lack.tasks, lack.sizes, lack.cost
    if not tasks:
        todo = f"{len(lack.scoring)} tasks that score, and " if lack.scoring else ""
        return f"all units are finished or queued: only {todo}a reduce job is asked for"
    hours = (units * cost.unit_s + len(tasks) * cost.load_s) / 3600
    how = "as measured in this run" if cost.measured else "a guess: nothing was measured yet"
    gpu = f"--{site.gpu.option}={site.gpu.value}" if site.gpu else "no GPU"
    cpus = f"{site.workers} processes of {site.cpus} cpus" if site.workers > 1 else f"{site.cpus} cpus"
    where = (
        ", ".join(
            f"{word} {value}"
            for word, value in (
                ("partition", site.partition),
                ("account", site.account),
                ("constraint", site.constraint),
                *site.sbatch.items(),
            )
            if value
        )
        or "the cluster's defaults"
    )
    then = f", then {len(lack.scoring)} tasks that score" if lack.scoring else ""
    return (
        f"{units} units in {len(tasks)} tasks of {min(map(len, tasks))} to {max(map(len, tasks))}, "
        f"{len(sizes)} array{'s' * (len(sizes) != 1)} of at most {max(sizes)}, {site.parallel} at once{then}; "
        f"then a reduce job of {site.reduce.minutes} minutes\n"
        f"each task: {gpu}, {cpus}, {site.minutes} minutes; {where}\n"
        f"about {hours:.1f} GPU hours ({cost.unit_s:.1f} s a unit, {cost.load_s:.0f} s to start a task; {how})"
        + (f"\nnodes left out: {', '.join(lack.exclude)} (--exclude none takes them all)" if lack.exclude else "")
    )


def stand(run: Path) -> Standing:
    """Adopt what killed launchers left, and ask the controller once for all jobs of the run."""
    known = ledger.submissions(run)
    adopted = [array for s in known for array in ledger.settle(s, partial(launch.leave_pickles, s))]
    return Standing(ledger.live(known), adopted)


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


def cost_of(plan: Plan, earlier: list[attempts.TaskAttempt]) -> Cost:
    """What a unit and a model load take: as measured in earlier attempts of this run, else a guess."""
    images = sum(len(plan.sets[cell.set].settings) for cell in plan.units.values()) / len(plan.units)
    guessed, unit_s = guess(plan.steps, plan.size, images), attempts.unit_seconds(earlier)
    if unit_s is None:
        return guessed
    return Cost(unit_s, attempts.load_seconds(earlier) or guessed.load_s, measured=True)


def room(site: Site) -> int | None:
    """How many more jobs (array elements count) may be queued. None: neither profile nor accounting names a cap."""
    cap = site.submit_cap or scheduler.submit_cap(getpass.getuser(), site.account, site.partition, site.qos)
    if cap is None:
        return None
    queued = scheduler.ask("squeue", "-h", "-r", "--me", "-o", "%i").split()
    return max(0, cap - len(queued))


def _max_array(site: Site) -> int | None:
    told = scheduler.max_array_size()
    sizes = [max(size, 1) for size in (told, site.max_array) if size is not None]  # 0: no arrays, so jobs one by one
    return min(sizes, default=None)
