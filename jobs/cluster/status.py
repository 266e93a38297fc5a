"""How a run stands: told by its files, one squeue, and at most one sacct. Never a loop over jobs or units."""

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from svdstory.jobs.queue import attempts, holders, ledger, scheduler
from svdstory.jobs.queue.holders import Live
from svdstory.jobs.queue.nodes import bad_nodes
from svdstory.jobs.queue.scheduler import SlurmError
from svdstory.jobs.study.plan import plan_path, scorers_of_plan, unit_methods
from svdstory.jobs.study.scores import read_standing
from svdstory.jobs.study.store import MANIFEST, Store

PACE_S = 3600.0  # units an hour are counted over the last hour


@dataclass(frozen=True)
class Status:
    """Counts are of units. `notes` are sentences for people: what could not be asked, and what to do next."""

    units: int
    done: int
    running: int
    queued: int
    failed: dict[str, int]  # by cause, of the last attempt of units that are not done
    idle: int  # neither done, nor failed, nor in the queue: `svdstory submit` adds them
    units_an_hour: float | None
    left_s: float | None
    gpu_hours: float
    jobs: list[str] = field(default_factory=list)
    bad_nodes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    scored: dict[str, int] = field(default_factory=dict)  # units with numbers, by scorer
    unscored: dict[str, dict[str, int]] = field(default_factory=dict)  # units without, by scorer and cause

    @property
    def complete(self) -> bool:
        return self.done == self.units


def status(run: Path) -> Status:
    """Look at the run. Raises InputError for a folder that is none; Slurm's silence becomes a note."""
    methods, store, notes = unit_methods(plan_path(run)), Store(run), []
    scorers = scorers_of_plan(plan_path(run))
    known = ledger.submissions(run)
    live = _live(known, notes)  # before the store: what a task that ends meanwhile has made is seen there
    turns = [turn for submission in known for turn in attempts.read(submission.folder)]
    published = {key: when for key, when in published_at(store).items() if key in methods}
    missing, failures = methods.keys() - published.keys(), store.failures()
    in_queue = holders.to_come(live, failures, turns) & missing
    at_work = [holder for holder in live if holder.element.state == "RUNNING" and in_queue.intersection(holder.units)]
    processes = sum(holder.submission.intent["site"]["workers"] for holder in at_work)
    running = min(processes, len(in_queue))
    failed = Counter(failures[key][-1].cause for key in missing - in_queue if key in failures)
    idle = len(missing) - len(in_queue) - sum(failed.values())
    numbers = read_standing(run)
    pace = _pace(list(published.values()), turns)
    left = (len(in_queue) / pace * 3600) if pace and in_queue else None
    if idle and not in_queue:
        notes.append(f"{idle} units are not in the queue: `svdstory submit` with the same words adds them")
    return Status(
        len(methods),
        len(published),
        running,
        len(in_queue) - running,
        dict(failed),
        idle,
        pace,
        left,
        _gpu_hours(known, turns, live, notes),
        _job_lines(live),
        bad_nodes(known, known[-1].intent.get("code"), methods, set(published), failures) if known else [],
        notes,
        {name: len(numbers.scored[name] & published.keys()) for name in scorers},
        {name: causes for name in scorers if (causes := _causes(numbers.failed[name], published))},
    )


def _causes(failed: dict[str, str], published: dict[str, float]) -> dict[str, int]:
    """Cause -> units that a scorer has failed on."""
    return dict(Counter(why.partition(":")[0] for key, why in failed.items() if key in published))


def published_at(store: Store) -> dict[str, float]:
    """Key -> when the unit was published, in seconds since the epoch: units whose manifest is there.

    One listing for each two hex digits, one question for each unit; sizes and contents are for `verify`.
    """
    try:
        shards = [entry.path for entry in os.scandir(store.run / "units")]
    except FileNotFoundError:
        return {}
    with ThreadPoolExecutor(8) as pool:  # a network file system answers many questions at once
        return {key: when for found in pool.map(_published_in, shards) for key, when in found}


def _published_in(shard: str) -> list[tuple[str, float]]:
    found = []
    for key in os.listdir(shard):
        try:
            found.append((key, os.stat(f"{shard}/{key}/{MANIFEST}").st_mtime))
        except OSError:  # damaged, moved aside in this moment, or a stale handle: the next look sees it
            continue
    return found


def _live(known: list[ledger.Submission], notes: list[str]) -> list[Live]:
    """The live elements of all submissions; none, and a note, where Slurm does not answer."""
    try:
        return holders.live(known)
    except SlurmError as error:
        notes.append(f"the queue is not known: {error}")
        return []


def _pace(times: list[float], turns: list[attempts.TaskAttempt]) -> float | None:
    """Units an hour: those published in the last hour, over that hour or the time since the first task started."""
    now = time.time()
    recent = [when for when in times if now - when < PACE_S]
    if not recent:
        return None
    since = max(now - PACE_S, min([turn.started for turn in turns if turn.started < min(recent)], default=min(recent)))
    return len(recent) / max(now - since, 1.0) * 3600


def _gpu_hours(known, turns: list[attempts.TaskAttempt], live: list[Live], notes: list[str]) -> float:
    """Hours that GPUs were held: by accounting, or by our own records where there is none."""
    jobs = [array.job for submission in known for array in submission.arrays if array.job and array.count]
    try:
        past = scheduler.history(jobs)
        return sum(p.seconds * max(p.gpus, 1) for p in past) / 3600
    except SlurmError as error:
        if jobs:
            notes.append(f"GPU hours are at least so many, by the tasks' own records ({error})")
    alive = {holder.element.task for holder in live}
    ends = [turn.ended or (time.time() if turn.job in alive else turn.started) for turn in turns]
    return sum(end - turn.started for end, turn in zip(ends, turns, strict=True)) / 3600


def _job_lines(live: list[Live]) -> list[str]:
    """One line for each job: its elements by state, and why the pending ones wait."""
    groups: dict[str, Counter] = {}
    for holder in live:
        element = holder.element
        why = f" ({element.reason})" if element.state == "PENDING" else ""
        job = groups.setdefault(element.job + ("" if holder.array.count else " reduce"), Counter())
        job[element.state.lower() + why] += 1
    return [f"{job}: " + ", ".join(f"{n} {state}" for state, n in states.items()) for job, states in groups.items()]


def lines(status: Status) -> list[str]:
    """The status for a terminal."""
    share = 100 * status.done / status.units if status.units else 100.0
    text = [
        f"units   {status.done} of {status.units} done ({share:.0f} %), {status.running} running, "
        f"{status.queued} queued, {sum(status.failed.values())} failed, {status.idle} not asked for"
    ]
    text += [
        f"failed  {count} × {cause}: svdstory retry RUN --cause {cause.replace(' ', '-')}"
        for cause, count in sorted(status.failed.items(), key=lambda item: -item[1])
    ]
    if status.scored:
        text.append("scores  " + ", ".join(f"{name} {count}" for name, count in status.scored.items()))
    text += [
        f"failed  {count} × {name}: {cause}: svdstory score RUN --scorer {name}"
        for name, causes in status.unscored.items()
        for cause, count in causes.items()
    ]
    pace = f"{status.units_an_hour:.0f} units an hour, " if status.units_an_hour else ""
    left = f"about {_duration(status.left_s)} left, " if status.left_s else ""
    text.append(f"pace    {pace}{left}{status.gpu_hours:.2f} GPU hours used")
    text += [f"job     {line}" for line in status.jobs]
    if status.bad_nodes:
        text.append(f"nodes   the next submit leaves out (--exclude none takes them): {', '.join(status.bad_nodes)}")
    return text + [f"note    {note}" for note in status.notes]


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{max(minutes, 1)} min"
