"""Progress of units: one bar on a terminal, lines in a batch log."""

import sys
import time
from contextlib import contextmanager


class Pace:
    """How long the rest will take, by what was made since `began`; what was found there already took no time."""

    def __init__(self, total: int, began: float):
        self.total, self.began, self.made, self.done = total, began, 0, 0
        self.end: float | None = None  # when all will be done

    def step(self, made: bool, now: float) -> None:
        self.done += 1
        self.made += made
        if self.made:
            self.end = now + (now - self.began) / self.made * (self.total - self.done)

    def left(self, now: float) -> str:
        """In words; nothing before anything was made."""
        if self.end is None:
            return ""
        minutes, seconds = divmod(round(max(0.0, self.end - now)), 60)
        return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"


@contextmanager
def progress(total: int):
    """One bar on a terminal, one line a unit in a batch log. Gives advance(name, state, seconds)."""
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
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.text import Text

    class TimeLeft(TextColumn):
        def render(self, task):
            return Text(pace.left(time.monotonic()))

    pace = Pace(total, time.monotonic())
    columns = (BarColumn(), MofNCompleteColumn(), TimeLeft(""), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading the model", total=total)

        def advance(name: str, state: str, seconds: float) -> None:
            pace.step(state != "found", time.monotonic())
            bar.update(task, advance=1, description=name)
            if state not in ("done", "found"):
                bar.console.print(f"{name}: {state}", markup=False, highlight=False)

        yield advance
