"""What runs on a node: one task of a submission (submitit calls it by its name), or a share of plain sbatch."""

import os
import time
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from svdstory.jobs.node.stop import Stop
from svdstory.jobs.queue import attempts, scheduler
from svdstory.jobs.queue.attempts import TaskAttempt
from svdstory.jobs.queue.ledger import Submission
from svdstory.jobs.queue.slices import read_slice
from svdstory.jobs.study.plan import Plan
from svdstory.jobs.study.scores import Shard, read_scores, shards_of
from svdstory.jobs.study.sharing import guard
from svdstory.jobs.study.store import Attempt, Store
from svdstory.jobs.study.tuned import sliced, together

if TYPE_CHECKING:
    from svdstory.jobs.node.scoring import Scored
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
    last: float | None = None  # when the last unit was told of: from then on it is scoring
    scored: int = 0
    told_scores: set[tuple[str, str]] = field(default_factory=set)  # (scorer, key)

    def report(self, key: str, state: str, seconds: float) -> None:
        """The worker's `report`: one line for the log, and the counts."""
        print(f"{time.strftime('%H:%M:%S')} {key} {state} {seconds:.1f} s", flush=True)
        self.told.add(key)
        self.last = time.time()
        if state == "found":
            return
        now = time.time()
        self.first = self.first or now - seconds
        self.units_s += seconds
        self.made += state == "done"
        self.failed += state != "done"
        early = not self.made and now - self.first < EARLY_S
        self.early_failures += state != "done" and early and key not in self.known

    def report_score(self, scorer: str, key: str, state: str, seconds: float) -> None:
        """The same for numbers."""
        self.told_scores.add((scorer, key))
        if state != "fresh":
            print(f"{time.strftime('%H:%M:%S')} {key} {scorer} {state} {seconds:.1f} s", flush=True)
        self.scored += state == "scored"

    def unscored(self, keys: list[str], scorers: Iterable[str]) -> list[tuple[str, str]]:
        """(scorer, key) of what nothing was told of."""
        return [(name, key) for name in scorers for key in keys if (name, key) not in self.told_scores]

    @property
    def node_is_bad(self) -> bool:
        return self.early_failures >= EARLY_FAILURES

    def at_hand(self, keys: list[str]) -> str:
        """The unit that the worker is at, or comes to next."""
        return next((key for key in keys if key not in self.told), "")

    def at_end(self, attempt: TaskAttempt, ending: str, unit: str = "") -> TaskAttempt:
        load_s = (self.first or time.time()) - self.began
        score_s = time.time() - (self.last or self.began) if self.told_scores else 0.0
        return replace(
            attempt,
            ended=time.time(),
            ending=ending,
            unit=unit,
            made=self.made,
            failed=self.failed,
            load_s=round(load_s, 2),
            units_s=round(self.units_s, 2),
            scored=self.scored,
            score_s=round(score_s, 2),
        )


def run_task(submission: str, number: int) -> dict:
    """Work through the units of task `number`: make them, score them. Returns counts, for submitit's result file.

    Raises RuntimeError where the node is bad, so that Slurm and its users see the task as failed.
    """
    place = Submission(Path(submission))
    run, site, part = place.folder.parents[1], place.intent["site"], read_slice(place.folder, number)
    guard(run)
    me, store = Attempt.here(), Store(run)
    progress, shard = Progress(known=store.failed()), Shard(run)
    node = os.environ.get("SLURMD_NODENAME", me.host)  # as Slurm calls it, and --exclude takes it
    process, processes = scheduler.process_of_task(os.environ)
    keys = list(part.plan.units)[process::processes]
    one_gpu_for_each(os.environ)
    attempt = TaskAttempt(number, me.job, me.restart, node, progress.began, process=process, processes=processes)
    attempts.write(place.folder, attempt)

    def closing() -> None:
        unit = progress.at_hand(keys) if part.sample else ""
        attempts.write(place.folder, progress.at_end(attempt, "stopped", unit))
        if is_barren(place, attempt, 60 * site["minutes"]):
            stop.requeue = False
            give_up(unit, site["minutes"], store, me)
            for scorer, key in progress.unscored(keys, part.scorers) if not unit else ():
                shard.fail(key, scorer, f"timeout: not scored in a task of {site['minutes']} minutes")
        shard.publish()

    stop = Stop(site["signal_seconds"], site["requeue"], closing)
    stop.listen()
    print(f"task {number}: {len(keys)} units on {me.host}, attempt {me}", flush=True)
    try:
        from svdstory.jobs.node.turn import take_turn  # torch: seconds

        made, scored = take_turn(
            part.plan,
            run,
            keys,
            part.scorers,
            sample=part.sample,
            known=read_scores(run, [*part.shards, *shards_of(run, me.job)]),
            shard=shard,
            stop=lambda: stop() or progress.node_is_bad,
            report=progress.report,
            report_score=progress.report_score,
        )
    except Exception:
        attempts.write(place.folder, progress.at_end(attempt, "crashed"))
        raise
    if (made.stopped or scored.stopped) and stop():
        stop.give_back()
    stop.over()  # a signal that came during the last unit does not bring a finished task back
    bad = progress.node_is_bad or "bad node" in (made.stopped, scored.stopped.partition(":")[0])
    ending = "bad node" if bad else made.stopped or scored.stopped or "finished"
    attempts.write(place.folder, progress.at_end(attempt, ending))
    if bad:
        raise RuntimeError(f"node {node}: units failed there at once. The next submit leaves it out.")
    counts = {"made": len(made.made), "found": len(made.found), "failed": made.failed}
    return {**counts, "scored": len(scored.scored), "unscored": len(scored.failed)}


def one_gpu_for_each(environment: MutableMapping[str, str]) -> None:
    """Of several processes on a node that all see its GPUs, each takes its own. Before torch is imported."""
    processes = int(environment.get("SLURM_STEP_NUM_TASKS", 1))
    visible = [gpu for gpu in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    if processes > 1 and len(visible) >= processes:
        environment["CUDA_VISIBLE_DEVICES"] = visible[int(environment["SLURM_LOCALID"])]


def is_barren(place: Submission, attempt: TaskAttempt, limit_s: float) -> bool:
    """Whether another turn after this ended one would bring nothing either: no unit was finished or scored in most of
    the time limit, or in the last BARREN_TURNS turns together. Turns that were killed, and later ones, begun elsewhere
    while this node hung, say nothing.
    """
    turns = [turn for turn in attempts.read(place.folder, attempt.task) if turn.process == attempt.process]
    turns = [turn for turn in turns if turn.started <= attempt.started and turn.ended is not None]
    last = turns[-1]
    most_of_it = not (last.made or last.scored) and last.ended - last.started > limit_s / 2
    brought = [turn.made or turn.scored for turn in turns[-BARREN_TURNS:]]
    return most_of_it or (len(turns) >= BARREN_TURNS and not any(brought))


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


def work_share(
    run: Path, plan: Plan, store: Store, share: int, shares: int, lead_s: float
) -> tuple["Outcome", "Scored"]:
    """Share number `share` of `shares` of the plan's units, in a job of plain sbatch (slurm/run.sbatch).

    On a warning signal the job is requeued, if this turn has finished or scored a unit; `lead_s` is the signal's lead
    in seconds.
    """
    keys, progress, shard = list(plan.units), Progress(known=store.failed()), Shard(run)

    def closing() -> None:
        shard.publish()
        stop.requeue = stop.requeue and bool(progress.made or progress.scored)

    stop = Stop(lead_s, True, closing)
    stop.listen()
    one_gpu_for_each(os.environ)
    from svdstory.jobs.node.turn import take_turn  # torch: seconds

    made, scored = take_turn(
        plan,
        run,
        sliced(together(keys, plan.subject_of), shares)[share],
        plan.scorers,
        known=read_scores(run),
        shard=shard,
        stop=lambda: stop() or progress.node_is_bad,
        report=progress.report,
        report_score=progress.report_score,
    )
    if (made.stopped or scored.stopped) and stop():
        stop.give_back()
    stop.over()
    return made, scored
