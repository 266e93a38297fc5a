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

    Scorers: clipscore, clip-i, dreamsim (also dreamsim:dino_vitb16, ...), background, layout. Run it again to go on
    where it was stopped. Exit status 1 if a finished unit could not be scored, or a scorer's weights are not there.
    """
    from svdstory.jobs.node.scoring import score_with_each
    from svdstory.jobs.study.plan import plan_path, read_plan

    plan = read_plan(plan_path(run))

    def score_with(name: str) -> int:
        return score_with_progress(
            run, plan, name, device=device, weights=weights, batch=batch, allow_random=allow_random
        )

    unscored = score_with_each(scorer or plan.scorers, score_with, lambda text: typer.echo(text, err=True))
    raise typer.Exit(1 if unscored else 0)


def score_with_progress(
    run: Path,
    plan,
    name: str,
    *,
    device: str | None = None,
    weights: Path | None = None,
    batch: int = 64,
    allow_random: bool = False,
) -> int:
    """Score with one scorer, with progress. Returns the number of units that could not be scored."""
    import time

    from svdstory.jobs.cli.progress import progress
    from svdstory.jobs.node.scoring import score_run
    from svdstory.pipeline.models.device import choose_device

    before = time.monotonic()
    with progress({"": len(plan.units)}) as advance:

        def report(key: str, state: str) -> None:
            nonlocal before
            now = time.monotonic()
            cell = plan.units[key]
            advance(
                f"{name}: {cell.set} {cell.method} seed {cell.seed}",
                {"scored": "done", "fresh": "found"}.get(state, state),
                now - before,
            )
            before = now

        outcome = score_run(
            run,
            name,
            device=str(choose_device(device)),
            weights=weights,
            allow_random=allow_random,
            batch=batch,
            report=report,
        )
    done = len(outcome.scored) + len(outcome.fresh)
    unfinished = len(plan.units) - done - len(outcome.failed)
    typer.echo(
        f"{name}: {len(outcome.scored)} units scored, {len(outcome.fresh)} had scores"
        + (f", {len(outcome.failed)} could not be scored" if outcome.failed else "")
        + (f", {unfinished} units are not finished" if unfinished else "")
    )
    for key, cause in outcome.failed.items():
        cell = plan.units[key]
        typer.echo(f"  {key} ({cell.set}, {cell.method}, seed {cell.seed}): {cause}")
    return len(outcome.failed)
