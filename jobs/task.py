"""What runs on a node: one task of a submission, or its reduce job. submitit calls these two by their names."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from svdstory.jobs import attempts
from svdstory.jobs.attempts import TaskAttempt
from svdstory.jobs.ledger import Submission, write_whole
from svdstory.jobs.plan import Plan, read_plan
from svdstory.jobs.stop import Stop
from svdstory.jobs.store import Attempt, Store

if TYPE_CHECKING:
    from svdstory.pipeline.worker import Outcome

EARLY_FAILURES = 3  # so many units failed and none made within so many seconds of the first: the node is bad
EARLY_S = 60.0
BARREN_TURNS = 3  # so many turns of a task in a row without one finished unit: it is not queued again


@dataclass
class Progress:
    """What the worker has told of its units so far, in this attempt."""

    began: float = field(default_factory=time.time)
    first: float | None = None  # when the first unit was begun: the model is loaded
    made: int = 0
    failed: int = 0
    units_s: float = 0.0
    early_failures: int = 0

    def report(self, key: str, state: str, seconds: float) -> None:
        """The worker's `report`: one line for the log, and the counts."""
        print(f"{time.strftime('%H:%M:%S')} {key} {state} {seconds:.1f} s", flush=True)
        if state == "found":
            return
        now = time.time()
        self.first = self.first or now - seconds
        self.units_s += seconds
        self.made += state == "done"
        self.failed += state != "done"
        self.early_failures += state != "done" and not self.made and now - self.first < EARLY_S

    @property
    def node_is_bad(self) -> bool:
        return self.early_failures >= EARLY_FAILURES

    def at_end(self, attempt: TaskAttempt, ending: str) -> TaskAttempt:
        load_s = (self.first or time.time()) - self.began
        return replace(
            attempt,
            ended=time.time(),
            ending=ending,
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
    me, progress, store = Attempt.here(), Progress(), Store(run)
    attempt = TaskAttempt(number, me.job, me.restart, me.host, progress.began)
    attempts.write(place.folder, attempt)

    def closing() -> None:
        attempts.write(place.folder, progress.at_end(attempt, "stopped"))
        if is_barren(place, attempt, 60 * site["minutes"]):
            stop.requeue = False
            give_up(next((key for key in keys if not store.is_finished(key)), None), site["minutes"], store, me)

    stop = Stop(site["signal_seconds"], site["requeue"], closing)
    stop.listen()
    print(f"task {number}: {len(keys)} units on {me.host}, attempt {me}", flush=True)
    try:
        from svdstory.pipeline.worker import work  # torch: seconds

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
    if stop():
        stop.give_back()
    bad = progress.node_is_bad or outcome.stopped == "bad node"
    attempts.write(place.folder, progress.at_end(attempt, "bad node" if bad else outcome.stopped or "finished"))
    if bad:
        raise RuntimeError(f"node {me.host}: {progress.failed} units failed at once. The next submit leaves it out.")
    return {"made": len(outcome.made), "found": len(outcome.found), "failed": outcome.failed}


def is_barren(place: Submission, attempt: TaskAttempt, limit_s: float) -> bool:
    """Whether another turn after this ended one would bring nothing either: no unit was finished in most of the time
    limit, or in the last BARREN_TURNS turns together. Later turns of the task, begun while this node hung, count not.
    """
    turns = [turn for turn in attempts.read(place.folder) if turn.task == attempt.task]
    turns = [turn for turn in turns if turn.started <= attempt.started]
    last = turns[-1]
    most_of_it = last.made == 0 and last.ended - last.started > limit_s / 2
    return most_of_it or (len(turns) >= BARREN_TURNS and not any(turn.made for turn in turns[-BARREN_TURNS:]))


def give_up(unit: str | None, minutes: int, store: Store, me: Attempt) -> None:
    """Record that the unit does not fit its time."""
    if unit:
        store.record_failure(
            unit,
            "timeout",
            f"this unit was not finished in a task of {minutes} minutes, nor in the "
            "turns before: raise minutes in the site profile, or lower steps or size",
            me,
        )


def run_reduce(submission: str) -> None:
    """Score what is there and build its report, complete or not. Raises RuntimeError where cells are missing."""
    from svdstory.jobs.reduce import reduce
    from svdstory.pipeline.metrics.stage import score_plan, score_run

    place = Submission(Path(submission))
    run = place.folder.parents[1]
    wait_for_late_units(place, Store(run))
    plan = read_plan(run / place.intent["plan"])

    def say(text: str) -> None:
        print(text, flush=True)

    def score(name: str) -> int:
        say(f"scoring by {name}")
        return len(score_run(run, name, device="cpu", allow_random=bool(plan.model.note)).failed)

    score_plan(plan, score, say)
    result = reduce(run, report=say)
    print(result.summary, flush=True)
    write_whole(place.folder / "reduced.json", {"complete": result.complete, "at": time.time()})
    if not result.complete:
        raise RuntimeError(f"the report {result.report} has holes: {result.summary}")


def wait_for_late_units(place: Submission, store: Store, deadline_s: float = 60.0) -> None:
    """Wait for units that tasks say they finished: on NFS and Lustre, this node may see them late. Then go on."""
    last = {turn.task: turn for turn in attempts.read(place.folder)}
    said = [key for number, turn in last.items() if turn.ending == "finished" for key in place.tasks[number]]
    failed, end = store.failures(), time.monotonic() + deadline_s
    late = [key for key in said if key not in failed]
    while (late := [key for key in late if not store.is_finished(key)]) and time.monotonic() < end:
        time.sleep(0.5)


def work_share(run: Path, plan: Plan, store: Store, share: int, shares: int, lead_s: float) -> "Outcome":
    """Share number `share` of `shares` of the plan's units, in a job of plain sbatch (slurm/run.sbatch).

    On a warning signal the job is requeued, if this turn has finished a unit; `lead_s` is the signal's lead in seconds.
    """
    keys, progress = list(plan.units), Progress()
    stop = Stop(lead_s, True, lambda: setattr(stop, "requeue", stop.requeue and progress.made > 0))
    stop.listen()
    from svdstory.pipeline.worker import work  # torch: seconds

    mine = keys[share * len(keys) // shares : (share + 1) * len(keys) // shares]
    outcome = work(plan, store, mine, report=progress.report, stop=lambda: stop() or progress.node_is_bad)
    if stop():
        stop.give_back()
    return outcome
