"""What runs on a node: one task of a submission, or its reduce job. submitit calls these two by their names."""

import os
import time
from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from svdstory.jobs.node.stop import Stop
from svdstory.jobs.queue import attempts, scheduler
from svdstory.jobs.queue.attempts import TaskAttempt
from svdstory.jobs.queue.ledger import Submission, write_whole
from svdstory.jobs.study.plan import Plan, plan_path, read_plan
from svdstory.jobs.study.sharing import guard
from svdstory.jobs.study.store import Attempt, Store

if TYPE_CHECKING:
    from svdstory.jobs.node.worker import Outcome

EARLY_FAILURES = 3  # so many units failed and none made within so many seconds of the first: the node is bad
EARLY_S = 60.0
BARREN_TURNS = 3  # so many turns of a task in a row without one finished unit: it is not queued again


@dataclass
class Progress:
    """What the worker has told of its units so far, in this attempt. `known` units have failed before, elsewhere."""

    known: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)
    began: float = field(default_factory=time.time)
    first: float | None = None  # when the first unit was begun: the model is loaded
    made: int = 0
    failed: int = 0
    units_s: float = 0.0
    early_failures: int = 0

    def report(self, key: str, state: str, seconds: float) -> None:
        """The worker's `report`: one line for the log, and the counts."""
        print(f"{time.strftime('%H:%M:%S')} {key} {state} {seconds:.1f} s", flush=True)
        self.told.add(key)
        if state == "found":
            return
        now = time.time()
        self.first = self.first or now - seconds
        self.units_s += seconds
        self.made += state == "done"
        self.failed += state != "done"
        early = not self.made and now - self.first < EARLY_S
        self.early_failures += state != "done" and early and key not in self.known

    @property
    def node_is_bad(self) -> bool:
        return self.early_failures >= EARLY_FAILURES

    def at_hand(self, keys: list[str]) -> str:
        """The unit that the worker is at, or comes to next."""
        return next((key for key in keys if key not in self.told), "")

    def at_end(self, attempt: TaskAttempt, ending: str, unit: str = "") -> TaskAttempt:
        load_s = (self.first or time.time()) - self.began
        return replace(
            attempt,
            ended=time.time(),
            ending=ending,
            unit=unit,
            made=self.made,
            failed=self.failed,
            load_s=round(load_s, 2),
            units_s=round(self.units_s, 2),
        )


def run_task(submission: str, number: int) -> dict:
    """Work through the units of task `number`. Returns counts, for submitit's result file.

    Raises RuntimeError where the node is bad, so that Slurm and its users see the task as failed.
    """
    place = Submission(Path(submission))
    run, site, keys = place.folder.parents[1], place.intent["site"], place.tasks[number]
    guard(run)
    me, store = Attempt.here(), Store(run)
    progress = Progress(known=set(store.failures()))
    node = os.environ.get("SLURMD_NODENAME", me.host)  # as Slurm calls it, and --exclude takes it
    process, processes = scheduler.process_of_task(os.environ)
    keys = keys[process::processes]
    one_gpu_for_each(os.environ)
    attempt = TaskAttempt(number, me.job, me.restart, node, progress.began, process=process, processes=processes)
    attempts.write(place.folder, attempt)

    def closing() -> None:
        unit = progress.at_hand(keys)
        attempts.write(place.folder, progress.at_end(attempt, "stopped", unit))
        if is_barren(place, attempt, 60 * site["minutes"]):
            stop.requeue = False
            give_up(unit, site["minutes"], store, me)

    stop = Stop(site["signal_seconds"], site["requeue"], closing)
    stop.listen()
    print(f"task {number}: {len(keys)} units on {me.host}, attempt {me}", flush=True)
    try:
        from svdstory.jobs.node.worker import work  # torch: seconds

        outcome = work(
            read_plan(run / place.intent["plan"]),
            store,
            keys,
            report=progress.report,
            stop=lambda: stop() or progress.node_is_bad,
        )
    except Exception:
        attempts.write(place.folder, progress.at_end(attempt, "crashed"))
        raise
    if outcome.stopped and stop():
        stop.give_back()
    stop.over()  # a signal that came during the last unit does not bring a finished task back
    bad = progress.node_is_bad or outcome.stopped == "bad node"
    attempts.write(place.folder, progress.at_end(attempt, "bad node" if bad else outcome.stopped or "finished"))
    if bad:
        raise RuntimeError(f"node {node}: {progress.failed} units failed at once. The next submit leaves it out.")
    return {"made": len(outcome.made), "found": len(outcome.found), "failed": outcome.failed}


def one_gpu_for_each(environment: MutableMapping[str, str]) -> None:
    """Of several processes on a node that all see its GPUs, each takes its own. Before torch is imported."""
    processes = int(environment.get("SLURM_STEP_NUM_TASKS", 1))
    visible = [gpu for gpu in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    if processes > 1 and len(visible) >= processes:
        environment["CUDA_VISIBLE_DEVICES"] = visible[int(environment["SLURM_LOCALID"])]


def is_barren(place: Submission, attempt: TaskAttempt, limit_s: float) -> bool:
    """Whether another turn after this ended one would bring nothing either: no unit was finished in most of the time
    limit, or in the last BARREN_TURNS turns together. Turns that were killed, and later ones, begun elsewhere while
    this node hung, say nothing.
    """
    turns = [turn for turn in attempts.read(place.folder, attempt.task) if turn.process == attempt.process]
    turns = [turn for turn in turns if turn.started <= attempt.started and turn.ended is not None]
    last = turns[-1]
    most_of_it = last.made == 0 and last.ended - last.started > limit_s / 2
    return most_of_it or (len(turns) >= BARREN_TURNS and not any(turn.made for turn in turns[-BARREN_TURNS:]))


def give_up(unit: str, minutes: int, store: Store, me: Attempt) -> None:
    """Record that the unit does not fit its time."""
    if unit and not store.is_finished(unit):
        store.record_failure(
            unit,
            "timeout",
            f"this unit was not finished in a task of {minutes} minutes, nor in the "
            "turns before: raise minutes in the site profile, or lower steps or size",
            me,
        )


def run_reduce(submission: str) -> None:
    """Score what is there and build its report. Raises RuntimeError where cells or numbers are missing.

    Before its time limit it is queued again, if this turn has scored anything: scores are kept.
    """
    from svdstory.jobs.node.scoring import score_run, score_with_each
    from svdstory.jobs.report.reduce import reduce

    place = Submission(Path(submission))
    run = place.folder.parents[1]
    guard(run)
    scored: list[str] = []
    stop = Stop(
        place.intent["site"]["signal_seconds"], True, lambda: setattr(stop, "requeue", stop.requeue and bool(scored))
    )
    stop.listen()
    wait_for_late_units(place, Store(run))
    plan = read_plan(run / place.intent["plan"])

    def say(text: str) -> None:
        print(text, flush=True)

    def score(name: str) -> int:
        say(f"scoring by {name}")
        outcome = score_run(
            run,
            name,
            device="cpu",
            allow_random=bool(plan.model.note),
            report=lambda key, state: scored.append(key) if state == "scored" else None,
        )
        return len(outcome.failed)

    unscored = score_with_each(plan.scorers, score, say)
    result = reduce(run, plan_file=run / place.intent["plan"], report=say)
    say(result.summary)
    if plan_path(run) != run / place.intent["plan"]:
        say(f"the run has another plan since: this report is of {place.intent['plan']}, as it was submitted")
    stop.over()
    complete = result.complete and not unscored
    write_whole(place.folder / "reduced.json", {"complete": complete, "at": time.time()})
    if not complete:
        raise RuntimeError(
            f"the report {result.report} is not all of it (the log says what it lacks): {result.summary}"
        )


def wait_for_late_units(place: Submission, store: Store, deadline_s: float = 60.0) -> None:
    """Wait for units that tasks say they finished: on NFS and Lustre, this node may see them late. Then go on."""
    last = {(turn.task, turn.process): turn for turn in attempts.read(place.folder)}
    ended = [turn for turn in last.values() if turn.ending == "finished"]
    said = [key for turn in ended for key in place.tasks[turn.task][turn.process :: turn.processes]]
    failed, end = store.failures(), time.monotonic() + deadline_s
    late = [key for key in said if key not in failed]
    while (late := [key for key in late if not store.is_finished(key)]) and time.monotonic() < end:
        time.sleep(0.5)


def work_share(run: Path, plan: Plan, store: Store, share: int, shares: int, lead_s: float) -> "Outcome":
    """Share number `share` of `shares` of the plan's units, in a job of plain sbatch (slurm/run.sbatch).

    On a warning signal the job is requeued, if this turn has finished a unit; `lead_s` is the signal's lead in seconds.
    """
    keys, progress = list(plan.units), Progress(known=set(store.failures()))
    stop = Stop(lead_s, True, lambda: setattr(stop, "requeue", stop.requeue and progress.made > 0))
    stop.listen()
    one_gpu_for_each(os.environ)
    from svdstory.jobs.node.worker import work  # torch: seconds

    mine = keys[share * len(keys) // shares : (share + 1) * len(keys) // shares]
    outcome = work(plan, store, mine, report=progress.report, stop=lambda: stop() or progress.node_is_bad)
    if outcome.stopped and stop():
        stop.give_back()
    stop.over()
    return outcome
