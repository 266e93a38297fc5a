"""Progress of units: one bar on a terminal, lines in a batch log."""

import sys
import time
from collections import Counter
from contextlib import contextmanager


class Pace:
    """How long the rest will take, by what was made since `began`; what was found there already took no time.

    `totals`: stage -> its steps. A stage of which nothing was made yet is taken to be quick.
    """

    def __init__(self, totals: dict[str, int], began: float):
        self.totals, self.began = totals, began
        self.done, self.made, self.spent = Counter(), Counter(), Counter()  # spent: seconds, of all workers together
        self.end: float | None = None  # when all will be done

    def step(self, stage: str, made: bool, seconds: float, now: float) -> None:
        self.done[stage] += 1
        if made:
            self.made[stage] += 1
            self.spent[stage] += seconds
        work = sum(self.spent[s] / n * (self.totals[s] - self.done[s]) for s, n in self.made.items())
        if self.made.total():
            self.end = now + work * (now - self.began) / max(sum(self.spent.values()), 1e-9)

    def left(self, now: float) -> str:
        """In words; nothing before anything was made."""
        if self.end is None:
            return ""
        minutes, seconds = divmod(round(max(0.0, self.end - now)), 60)
        return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"


@contextmanager
def progress(totals: dict[str, int]):
    """One bar on a terminal, one line a step in a batch log. Gives advance(name, state, seconds, stage).

    `totals`: stage -> its steps. The bar shows the stage of the last step, and the time left of all.
    """
    if not sys.stderr.isatty():
        done = 0

        def line(name: str, state: str, seconds: float, stage: str = "") -> None:
            nonlocal done
            done += 1
            if state != "found":
                print(f"[{done}/{sum(totals.values())}] {name}: {state} ({seconds:.1f} s)", file=sys.stderr, flush=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.text import Text

    class TimeLeft(TextColumn):
        def render(self, task):
            return Text(pace.left(time.monotonic()))

    pace = Pace(totals, time.monotonic())
    columns = (BarColumn(), MofNCompleteColumn(), TimeLeft(""), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading the model", total=next(iter(totals.values())))

        def advance(name: str, state: str, seconds: float, stage: str = "") -> None:
            pace.step(stage, state != "found", seconds, time.monotonic())
            bar.update(task, completed=pace.done[stage], total=totals[stage], description=name)
            if state not in ("done", "found"):
                bar.console.print(f"{name}: {state}", markup=False, highlight=False)

        yield advance
