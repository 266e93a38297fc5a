"""Which nodes the next submit leaves out: those on which fails what succeeds elsewhere.

A fault of the code fails everywhere. So a node is blamed only for what the present code did there lately, and only where
the same thing went well on another node: loading the model, or a unit of the same method.
"""

import time

from svdstory.jobs.queue import attempts
from svdstory.jobs.queue.attempts import TaskAttempt
from svdstory.jobs.queue.ledger import Submission
from svdstory.jobs.study.store import Failure

RECENT_S = 86400.0  # what is older has been mended, or somebody else's jobs would have told


def bad_nodes(
    known: list[Submission], code: str, methods: dict[str, str], finished: set[str], failures: dict[str, list[Failure]]
) -> list[str]:
    """Names of nodes to leave out.

    code: the name of the present code's copy. methods: unit key -> its method. finished: units that are there.
    """
    turns: list[tuple[TaskAttempt, set[str]]] = []  # and the methods of units that the turn may have made
    for submission in known:
        if submission.intent.get("code") == code:
            tasks = [{methods[key] for key in keys if key in finished and key in methods} for keys in submission.tasks]
            turns += [(turn, tasks[turn.task]) for turn in attempts.read(submission.folder)]
    recent = [(turn, made) for turn, made in turns if time.time() - turn.started < RECENT_S]
    good = {turn.node for turn, _ in recent if turn.made}
    blamed = {turn.node for turn, _ in recent if _is_to_blame(turn, recent, methods, failures)}
    return sorted(blamed - good)


def _is_to_blame(turn: TaskAttempt, turns: list, methods: dict[str, str], failures: dict[str, list[Failure]]) -> bool:
    """Whether the turn ended by what goes well on other nodes."""
    elsewhere = [made for other, made in turns if other.made and other.node != turn.node]
    if turn.ending == "crashed":  # the model did not load
        return bool(elsewhere)
    mine = f"{turn.job}-r{turn.restart}-"
    failed = {methods.get(key) for key, records in failures.items() if any(f.attempt.startswith(mine) for f in records)}
    return turn.ending == "bad node" and bool(failed & set().union(*elsewhere))
