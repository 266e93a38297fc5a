"""The job after all tasks (submitit calls it by its name): what killed tasks left is asked for again, then the report."""

import time
from pathlib import Path

from svdstory.jobs.cluster.sites import Site
from svdstory.jobs.node.stop import Stop
from svdstory.jobs.queue import attempts, holders, ledger
from svdstory.jobs.queue.ledger import Submission, write_whole
from svdstory.jobs.queue.scheduler import SlurmError
from svdstory.jobs.study.plan import Plan, plan_path, read_plan
from svdstory.jobs.study.scores import read_standing
from svdstory.jobs.study.sharing import guard
from svdstory.jobs.study.store import Store
from svdstory.pipeline.config.strict import InputError, parse


def run_reduce(submission: str) -> None:
    """Ask again for what is missing and has not failed; where there is nothing to ask for, build the report.

    Scores first where the profile says so (`scorers_on: reduce`); before its time limit it is queued again then, if
    this turn has scored anything: scores are kept. Raises RuntimeError where cells or numbers are missing.
    """
    place = Submission(Path(submission))
    run = place.folder.parents[1]
    guard(run)
    wait_for_late_units(place, Store(run))
    plan_file = run / place.intent["plan"]
    asked = read_plan(plan_file)
    if plan_path(run) != plan_file:
        say(f"the run has another plan since: the report is of {place.intent['plan']}, as it was submitted")
    elif ask_again(place, asked):
        return
    if place.intent["site"]["scorers_on"] == "reduce" and place.intent["scorers"]:
        score_all(place, asked)
    from svdstory.jobs.report.reduce import reduce

    result = reduce(run, plan_file=plan_file, report=say)
    say(result.summary)
    complete = result.complete and not set(result.unscored).intersection(place.intent["scorers"])
    write_whole(place.folder / "reduced.json", {"complete": complete, "at": time.time()})
    if not complete:
        raise RuntimeError(
            f"the report {result.report} is not all of it (the log says what it lacks): {result.summary}"
        )


def say(text: str) -> None:
    print(text, flush=True)


def ask_again(place: Submission, plan: Plan) -> bool:
    """Queue what is missing, has not failed and was not cancelled, with a reduce job of its own after it.

    At most `rounds` times after each other (the profile's). Whether there was anything to ask for, and Slurm took it.
    """
    from svdstory.jobs.cluster.submit import submit_missing

    run, site = place.folder.parents[1], parse(Site, place.intent["site"], str(place.folder))
    turn = place.intent["round"] + 1
    if turn > site.rounds:
        return False
    try:
        keys = left_over(run, plan, place.intent["scorers"] if site.scorers_on != "reduce" else [])
        if not keys:
            return False
        say(f"{len(keys)} units are missing and have not failed: asking again, round {turn} of {site.rounds}")
        asked = submit_missing(run, site, keys=keys, turn=turn, metrics=bool(place.intent["scorers"]), say=say)
    except (InputError, SlurmError) as error:
        say(f"they could not be asked for from here: {error}")
        return False
    if asked.refused:
        say("\n".join(asked.refused))
    return asked.submission is not None and not asked.refused


def left_over(run: Path, plan: Plan, scorers: list[str]) -> list[str]:
    """The units that are missing or not scored, of which no attempt has failed and whose task nobody has cancelled."""
    store, standing = Store(run), read_standing(run)
    finished, failed = store.finished(plan.units), store.failed()
    unscored = {
        key for key in finished for name in standing.lacking(key, scorers) if key not in standing.failed.get(name, ())
    }
    keys = [key for key in plan.units if key in unscored or key not in finished and key not in failed]
    if not keys:
        return []
    by_hand = holders.cancelled(ledger.submissions(run))
    return [key for key in keys if key not in by_hand]


def score_all(place: Submission, plan: Plan) -> None:
    """Score what is not scored yet, here."""
    from svdstory.jobs.node.scoring import score_run

    scored: list[str] = []

    def closing() -> None:
        stop.requeue = stop.requeue and bool(scored)

    stop = Stop(place.intent["site"]["signal_seconds"], True, closing)
    stop.listen()
    done = score_run(
        place.folder.parents[1],
        place.intent["scorers"],
        allow_random=bool(plan.model.note),
        stop=stop,
        report=lambda scorer, key, state, seconds: scored.append(key) if state == "scored" else None,
    )
    if done.stopped and stop():
        stop.give_back()
    stop.over()  # a signal during the last batch costs no report


def wait_for_late_units(place: Submission, store: Store, deadline_s: float = 60.0) -> None:
    """Wait for units that tasks say they finished: on NFS and Lustre, this node may see them late. Then go on."""
    last = {(turn.task, turn.process): turn for turn in attempts.read(place.folder)}
    ended = [turn for turn in last.values() if turn.ending == "finished"]
    said = [key for turn in ended for key in place.tasks[turn.task][turn.process :: turn.processes]]
    failed, end = store.failures(), time.monotonic() + deadline_s
    late = [key for key in said if key not in failed]
    while (late := [key for key in late if not store.is_finished(key)]) and time.monotonic() < end:
        time.sleep(0.5)
