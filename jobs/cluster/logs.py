"""Why units failed: all of a run by cause, or one with its task's log."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from svdstory.jobs.queue.ledger import submissions
from svdstory.jobs.study.plan import Plan, plan_path, read_plan
from svdstory.jobs.study.store import Store
from svdstory.pipeline.config.strict import InputError, choices

WORDS = 3  # different last words that are shown of a cause


def by_cause(run: Path) -> Iterator[str]:
    """Lines on the units that are not finished and whose last attempt failed: cause, last words, a unit of each."""
    plan, store = read_plan(plan_path(run)), Store(run)
    failures = store.failures()
    failed = [key for key in plan.units if key in failures]
    causes = defaultdict(list)
    for key in sorted(set(failed) - store.finished(failed), key=failed.index):
        causes[failures[key][-1].cause].append(failures[key][-1])
    if not causes:
        yield f"no unit of {run} has failed and is not finished"
    for cause, last in sorted(causes.items(), key=lambda item: -len(item[1])):
        yield f"{len(last)} × {cause}: svdstory retry {run} --cause {cause.replace(' ', '-')}"
        words = Counter(_last_line(failure.message) for failure in last)
        for line, count in words.most_common(WORDS):
            example = next(failure for failure in last if _last_line(failure.message) == line)
            yield f"  {count} × {line}"
            yield f"      for example {_unit(plan, example.key)}: svdstory logs {run} {example.key[:8]}"
        if len(words) > WORDS:
            yield f"  and {len(words) - WORDS} other messages"


def of_unit(run: Path, unit: str) -> Iterator[str]:
    """Lines on one unit: its state, its failed attempts, the log of the task that last had it.

    `unit` begins its key. Raises InputError where none or several begin so.
    """
    plan, store = read_plan(plan_path(run)), Store(run)
    keys = [key for key in plan.units if key.startswith(unit)]
    if len(keys) > 1:
        raise InputError(f"unit {unit!r}: {len(keys)} units of {run} begin so. Give more digits of one.")
    if not keys:
        raise InputError(f"unit {unit!r}: no unit of {run} begins so{choices(unit, list(plan.units))}.")
    yield f"{_unit(plan, keys[0])}: {store.problem(keys[0]) or 'finished'}"
    for failure in store.failures().get(keys[0], []):
        yield f"\n{failure.cause} in attempt {failure.attempt}:\n{failure.message}"
    for submission in reversed(submissions(run.absolute())):
        number = next((n for n, keys_of in enumerate(submission.tasks) if keys[0] in keys_of), None)
        element = submission.element_of(number) if number is not None else None
        written = sorted(submission.slurm_folder.glob(f"{element}_*_log.out"))
        if written:  # one by each of the task's processes, which take its units in turn
            path = written[submission.tasks[number].index(keys[0]) % len(written)]
            yield f"\n{path}\n{path.read_text(encoding='utf-8', errors='replace')}"
            return


def _unit(plan: Plan, key: str) -> str:
    cell = plan.units[key]
    return f"{key} ({cell.set}, {cell.method}, seed {cell.seed})"


def _last_line(message: str) -> str:
    return (message.strip().splitlines() or ["without a word"])[-1]
