"""Progress of units: a bar on a terminal, lines in a batch log."""

import sys
from contextlib import contextmanager


@contextmanager
def progress(total: int):
    """A bar on a terminal, one line a unit in a batch log. Gives advance(name, state, seconds)."""
    if not sys.stderr.isatty():
        done = 0

        def line(name: str, state: str, seconds: float) -> None:
            nonlocal done
            done += 1
            if state != "found":
                print(f"[{done}/{total}] {name}: {state} ({seconds:.1f} s)", file=sys.stderr, flush=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("loading the model", total=total)

        def advance(name: str, state: str, seconds: float) -> None:
            bar.update(task, advance=1, description=name)
            if state not in ("done", "found"):
                bar.console.print(f"{name}: {state}")

        yield advance
