"""The command that measures what a run shows: score."""

from pathlib import Path
from typing import Annotated

import typer

from svdstory.jobs.cli.options import RunFolder

Scorers = Annotated[
    list[str] | None,
    typer.Option("--scorer", help="What to measure with; may be given several times. Default: the plan's scorers."),
]
Device = Annotated[str | None, typer.Option(help="cuda, cuda:1 or cpu. Default: a GPU if there is one.")]
Weights = Annotated[
    Path | None, typer.Option(help="Folder of staged weights. Default: SVDSTORY_WEIGHTS or ~/.cache/svdstory")
]
Batch = Annotated[int, typer.Option(min=1, help="Images that go through a network at once.")]


def register(app: typer.Typer) -> None:
    app.command("score", rich_help_panel="Measure")(score)


def score(
    run: RunFolder,
    scorer: Scorers = None,
    device: Device = None,
    weights: Weights = None,
    batch: Batch = 64,
    allow_random: Annotated[
        bool,
        typer.Option(
            "--allow-random", help="Go on with random weights where none are staged; every table then says so."
        ),
    ] = False,
) -> None:
    """Measure the finished units of a run that lack a scorer's numbers; `reduce` makes tables of them.

    Example: svdstory score results/report-sdxl --scorer clipscore --scorer dreamsim

    Scorers: clipscore, clip-i, dreamsim (also dreamsim:dino_vitb16, ...), dino-i, cqs, background, layout, world
    (the miniature's truth). Run it again to go on where it was stopped. Exit status 1 if a finished unit could not be
    scored, or weights are not there.
    """
    import time

    from svdstory.jobs.cli.progress import progress
    from svdstory.jobs.node.scoring import score_run
    from svdstory.jobs.study.plan import plan_path, read_plan
    from svdstory.pipeline.models.device import choose_device

    plan, began = read_plan(plan_path(run)), time.monotonic()
    names = scorer or list(plan.scorers)
    with progress({name: len(plan.units) for name in names}) as advance:

        def report(name: str, key: str, state: str, seconds: float) -> None:
            cell = plan.units[key]
            shown = {"scored": "done", "fresh": "found"}.get(state, state)
            advance(f"{name}: {cell.set} {cell.method} seed {cell.seed}", shown, seconds, name)

        outcome = score_run(
            run,
            names,
            device=str(choose_device(device)),
            weights=weights,
            allow_random=allow_random,
            batch=batch,
            report=report,
        )
    for name in names:
        made, fresh = (sum(scorer == name for scorer, _ in of) for of in (outcome.scored, outcome.fresh))
        unfinished = len(plan.units) - made - fresh - sum(scorer == name for scorer, _ in outcome.failed)
        left = f", {unfinished} units are not finished" if unfinished and name not in outcome.left_out else ""
        typer.echo(f"{name}: {made} units scored, {fresh} had scores{left}")
    say_unscored(outcome.failed)
    typer.echo(f"{time.monotonic() - began:.0f} s", err=True)
    raise typer.Exit(0 if outcome.complete else 1)


def say_unscored(failed: dict[tuple[str, str], str]) -> None:
    """Units without numbers, by scorer and cause: (scorer, key) -> cause."""
    from collections import Counter

    for (name, why), count in Counter((name, why) for (name, _), why in failed.items()).items():
        typer.echo(f"{name}: {count} unit{'s' * (count > 1)} could not be scored: {why}", err=True)
