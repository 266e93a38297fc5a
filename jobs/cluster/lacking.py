"""What a run lacks: the units that nobody has made and nobody is making, cut into the tasks that would make them."""

import getpass
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from svdstory.jobs.cluster.chunks import Cost, arrays, cut, guess
from svdstory.jobs.cluster.sites import Site
from svdstory.jobs.queue import attempts, holders, ledger, scheduler
from svdstory.jobs.queue.holders import Live
from svdstory.jobs.queue.nodes import bad_nodes
from svdstory.jobs.queue.slices import Slice
from svdstory.jobs.study.code import identity
from svdstory.jobs.study.plan import Plan
from svdstory.jobs.study.scores import Standing as Numbers
from svdstory.jobs.study.scores import read_standing
from svdstory.jobs.study.store import Store
from svdstory.jobs.study.tuned import SHELF, seconds
from svdstory.pipeline.config.strict import InputError, nearest


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
    queued = holders.to_come(live, failures, earlier) & set(units) - complete
    lost = plan.brought - finished  # pictures made elsewhere that are not there: no task could make them
    keys = [key for key in units if key not in complete and key not in queued and key not in lost]
    keys.sort(key=failures.__contains__)  # what has failed before comes last: it must not keep others waiting
    keys = keys if cause is None else failed_so(keys, store, standing, cause)
    chosen = None if only is None else set(only)
    keys = [key for key in keys if chosen is None or key in chosen]
    cost = cost_of(plan, earlier)
    if exclude is None:
        methods = {key: cell.method for key, cell in plan.units.items()}
        exclude = bad_nodes(known, identity()["hash"], methods, finished, failures)
    apart = site.scorers_on == "array" and bool(wanted)
    sampled = [key for key in keys if not (apart and key in finished)]
    cost = with_subjects(cost, plan, run, sampled)
    tasks = cut(sampled, site, cost, room, per_task, plan.subject_of)
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


def cost_of(plan: Plan, earlier: list[attempts.TaskAttempt]) -> Cost:
    """What a unit and a model load take: as measured in earlier attempts of this run, else a guess."""
    images = sum(len(plan.sets[cell.set].settings) for cell in plan.units.values()) / len(plan.units)
    guessed, unit_s = guess(plan.steps, plan.size, images), attempts.unit_seconds(earlier)
    if unit_s is None:
        return guessed
    return Cost(unit_s, attempts.load_seconds(earlier) or guessed.load_s, measured=True)


def with_subjects(cost: Cost, plan: Plan, run: Path, keys: list[str]) -> Cost:
    """With the tuning of the subjects that these units need and the run lacks, spread over the units."""
    there = Store(run, SHELF)
    needed = {plan.sittings[key].key: plan.sittings[key] for key in keys if key in plan.sittings}
    more = sum(seconds(one, plan.model, plan.size) for key, one in needed.items() if not there.is_finished(key))
    return replace(cost, unit_s=cost.unit_s + more / len(keys)) if more else cost


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
