"""How a run stands: told by its files, one squeue, and at most one sacct. Never a loop over jobs or units."""

import json
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from svdstory.jobs import attempts, ledger, scheduler
from svdstory.jobs.plan import plan_path
from svdstory.jobs.scheduler import Element, SlurmError
from svdstory.jobs.store import Failure, Store

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

    @property
    def complete(self) -> bool:
        return self.done == self.units


def status(run: Path) -> Status:
    """Look at the run. Raises InputError for a folder that is none; Slurm's silence becomes a note."""
    units, store, notes = unit_keys(plan_path(run)), Store(run), []
    published = {key: when for key, when in published_at(store).items() if key in units}
    known = ledger.submissions(run)
    live = _live(known, notes)
    last = {key: found[-1] for key, found in store.failures().items() if key in units and key not in published}
    in_queue, running = _covered(live, published, last)
    failed = Counter(failure.cause for key, failure in last.items() if key not in in_queue)
    idle = len(units) - len(published) - len(in_queue) - sum(failed.values())
    turns = [turn for submission in known for turn in attempts.read(submission.folder)]
    pace = _pace(list(published.values()), turns)
    left = (len(in_queue) / pace * 3600) if pace and in_queue else None
    if idle and not in_queue:
        notes.append(f"{idle} units are not in the queue: `svdstory submit` with the same words adds them")
    return Status(
        len(units),
        len(published),
        running,
        len(in_queue) - running,
        dict(failed),
        idle,
        pace,
        left,
        _gpu_hours(known, turns, live, notes),
        _job_lines(live),
        attempts.bad_nodes(turns),
        notes,
    )


def unit_keys(plan: Path) -> set[str]:
    """The keys of a plan's units, read without checking the rest: status is to be quick."""
    return {cell["key"] for cell in json.loads(plan.read_text(encoding="utf-8"))["cells"]}


def published_at(store: Store) -> dict[str, float]:
    """Key -> when the unit was published, in seconds since the epoch: one listing for each two hex digits."""
    found = {}
    try:
        shards = [entry.path for entry in os.scandir(store.run / "units")]
    except FileNotFoundError:
        return found
    for shard in shards:
        for entry in os.scandir(shard):
            try:
                found[entry.name] = entry.stat().st_mtime
            except OSError:  # moved aside in this moment, or a stale handle: the next look sees it
                continue
    return found


def _live(known: list[ledger.Submission], notes: list[str]) -> list[tuple[ledger.Submission, Element]]:
    """The live elements of all submissions, each with its submission: one squeue, by the jobs' names.

    By name, so that a job whose launcher died before writing its id down is seen too.
    """
    by_name = {array.name: submission for submission in known for array in submission.arrays if not array.refused}
    try:
        return [(by_name[e.name], e) for e in scheduler.queue(names=sorted(by_name)) if e.live and e.name in by_name]
    except SlurmError as error:
        notes.append(f"the queue is not known: {error}")
        return []


def _covered(
    live: list[tuple[ledger.Submission, Element]], published: dict[str, float], failed: dict[str, Failure]
) -> tuple[set[str], int]:
    """The unfinished units that live tasks will come to, and how many of them are being made at this moment."""
    in_queue: set[str] = set()
    running = 0
    for submission, element in live:
        shape = next(array for array in submission.arrays if array.name == element.name)
        if not shape.count:
            continue
        number = shape.first + (element.index or 0)
        turn = f"{element.task}-r" if element.state == "RUNNING" else "none"
        unfinished = [
            key
            for key in submission.tasks[number]
            if key not in published and not (key in failed and failed[key].attempt.startswith(turn))
        ]  # this turn is past it
        in_queue.update(unfinished)
        running += element.state == "RUNNING" and bool(unfinished)
    return in_queue, running


def _pace(times: list[float], turns: list[attempts.TaskAttempt]) -> float | None:
    """Units an hour: those published in the last hour, over that hour or the time since the first task started."""
    now = time.time()
    recent = [when for when in times if now - when < PACE_S]
    if not recent:
        return None
    since = max(now - PACE_S, min([turn.started for turn in turns if turn.started < min(recent)], default=min(recent)))
    return len(recent) / max(now - since, 1.0) * 3600


def _gpu_hours(known, turns: list[attempts.TaskAttempt], live, notes: list[str]) -> float:
    """Hours that GPUs were held: by accounting, or by our own records where there is none."""
    jobs = [array.job for submission in known for array in submission.arrays if array.job and array.count]
    try:
        past = scheduler.history(jobs)
        return sum(p.seconds * max(p.gpus, 1) for p in past) / 3600
    except SlurmError as error:
        if jobs:
            notes.append(f"GPU hours are at least so many, by the tasks' own records ({error})")
    alive = {element.task for _, element in live}
    ends = [turn.ended or (time.time() if turn.job in alive else turn.started) for turn in turns]
    return sum(end - turn.started for end, turn in zip(ends, turns, strict=True)) / 3600


def _job_lines(live: list[tuple[ledger.Submission, Element]]) -> list[str]:
    """One line for each job: its elements by state, and why the pending ones wait."""
    groups: dict[str, Counter] = {}
    for _, element in live:
        why = f" ({element.reason})" if element.state == "PENDING" else ""
        groups.setdefault(element.job + (" reduce" if element.name.endswith("-reduce") else ""), Counter())[
            element.state.lower() + why
        ] += 1
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
    pace = f"{status.units_an_hour:.0f} units an hour, " if status.units_an_hour else ""
    left = f"about {_duration(status.left_s)} left, " if status.left_s else ""
    text.append(f"pace    {pace}{left}{status.gpu_hours:.2f} GPU hours used")
    text += [f"job     {line}" for line in status.jobs]
    if status.bad_nodes:
        text.append(f"nodes   left out of the next submit: {', '.join(status.bad_nodes)}")
    return text + [f"note    {note}" for note in status.notes]


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{max(minutes, 1)} min"
