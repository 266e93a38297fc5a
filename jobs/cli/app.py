"""The `svdstory` command. Heavy imports stay inside the commands, so that --help and every login-node command is quick."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from svdstory.jobs.cli import commands_cluster, commands_measure, commands_report, commands_score, commands_train
from svdstory.jobs.cli.options import Dtype, ExperimentName, Model, Names, Numbers, Out, RunFolder, Size, Steps, planned
from svdstory.pipeline.config.strict import InputError

app = typer.Typer(
    name="svdstory",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Consistent-subject image generation studies with SDXL. Start here: svdstory run",
)


@app.command()
def run(
    experiment: ExperimentName = "demo",
    model: Model = None,
    out: Out = None,
    sets: Names = None,
    methods: Names = None,
    seeds: Numbers = None,
    steps: Steps = None,
    size: Size = None,
    dtype: Dtype = None,
    device: Annotated[str | None, typer.Option(help="cuda, cuda:1 or cpu. Default: a GPU if there is one.")] = None,
    micro_batch: Annotated[
        int | None,
        typer.Option(
            min=1, help="Images per UNet call besides the anchors; less needs less memory. The images are the same."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that share the units. Default: one; "
            "for tiny and miniature without a GPU one for each core.",
        ),
    ] = None,
):
    """Do an experiment here and now: plan, sample, score, reduce. Run it again to go on where it was stopped.

    Example: svdstory run report --model tiny --sets bad
    """
    from svdstory.jobs.cli.progress import progress
    from svdstory.jobs.node.local_run import sample_all
    from svdstory.jobs.study.run_folder import prepare

    plan, folder = planned(experiment, model, out, sets, methods, seeds, steps, size, dtype)
    store = prepare(plan, folder)
    cells, units = len(plan.cells), len(plan.units)
    typer.echo(
        f"{folder}: {len(plan.sets)} prompt sets, {len(plan.methods)} methods, {cells} cells, {units} units; "
        f"model {plan.model.name}, {plan.steps} steps, {plan.size[0]}x{plan.size[1]}",
        err=True,
    )
    states = sample_all(plan, store, device=device, micro_batch=micro_batch, workers=workers, progress=progress)
    if len(states) < units:
        typer.echo(f"{units - len(states)} units were not made. Run the same command again to go on.", err=True)
    finish(folder, plan, device)


def finish(folder: Path, plan, device: str | None) -> None:
    """Score and reduce a run; exit status 1 if anything that it asks for is missing."""
    from svdstory.jobs.cli.commands_score import score_with_progress
    from svdstory.jobs.node.scoring import score_with_each
    from svdstory.jobs.report.reduce import reduce

    def score(name: str) -> int:
        return score_with_progress(folder, plan, name, device=device, allow_random=bool(plan.model.note))

    unscored = score_with_each(plan.scorers, score, lambda text: typer.echo(text, err=True))
    result = reduce(folder)
    typer.echo(result.summary)
    raise typer.Exit(0 if result.complete and not unscored else 1)


@app.command()
def plan(
    experiment: ExperimentName = "demo",
    model: Model = None,
    out: Out = None,
    sets: Names = None,
    methods: Names = None,
    seeds: Numbers = None,
    steps: Steps = None,
    size: Size = None,
    dtype: Dtype = None,
):
    """Show what a run would do: units, images and disk, checked as `run` and `submit` check them. Writes nothing.

    Example: svdstory plan report
    """
    from svdstory.jobs.study.run_folder import bytes_of
    from svdstory.jobs.study.store import Store

    made, folder = planned(experiment, model, out, sets, methods, seeds, steps, size, dtype)
    present = Store(folder).present()
    done = sum(key in present for key in made.units)
    images = sum(len(made.sets[unit.set].settings) for unit in made.units.values())
    space = sum(bytes_of(made, key) for key in made.units)
    typer.echo(
        f"experiment  {experiment}: {made.about}\n"
        f"run folder  {folder}" + (f" ({done} units there)" if done else "") + "\n"
        f"model       {made.model.name} ({made.model.dtype}), {made.steps} steps of {made.scheduler}, "
        f"{made.size[0]}x{made.size[1]}, guidance {made.guidance}{', exact filters' if made.exact_filter else ''}\n"
        f"sets        {len(made.sets)}: {', '.join(made.sets)}\n"
        f"methods     {len(made.methods)}: {', '.join(made.methods)}\n"
        f"cells       {len(made.cells)}, units {len(made.units)}, images {images}\n"
        f"disk        at most {space / 1e9:.2f} GB, {images + 2 * len(made.units)} files"
        + "".join(f"\n{line}" for line in memory_lines(made))
    )


def memory_lines(plan) -> list[str]:
    """What cards of 16 and 32 GB hold, for the models that the formula of pipeline/models/memory.py speaks of."""
    from svdstory.pipeline.models import memory

    if not memory.applies(plan.model):
        return []
    lines = []
    for card in (16, 32):
        fits = {
            (name, images): memory.largest_micro_batch(method, images, plan.size, card)
            for name, method in plan.methods.items()
            for images in {len(prompts.settings) for prompts in plan.sets.values()}
        }
        too_large = sorted({name for (name, _), most in fits.items() if most is None})
        parts = [
            most
            for (name, images), most in fits.items()
            if most is not None and most < images - plan.methods[name].n_anchors
        ]
        said = (
            f"too small for {', '.join(too_large)}"
            if too_large
            else f"takes micro-batches, of {min(parts)} images for the largest"
            if parts
            else "holds whole sets"
        )
        lines.append(f"{card} GB card  {said}")
    return lines


@app.command()
def verify(run: RunFolder, deep: Annotated[bool, typer.Option(help="Compare every file's sha256.")] = False):
    """Check that every unit of a run is there and sound. Exit status 1 if one is not.

    Example: svdstory verify results/report-sdxl --deep
    """
    from svdstory.jobs.study.plan import plan_path, read_plan
    from svdstory.jobs.study.store import Store

    made, store = read_plan(plan_path(run)), Store(run)
    problems = {key: problem for key in made.units if (problem := store.problem(key, deep))}
    for key, problem in problems.items():
        cell = made.units[key]
        typer.echo(f"{key} ({cell.set}, {cell.method}, seed {cell.seed}): {problem}")
    typer.echo(
        f"{len(made.units) - len(problems)} of {len(made.units)} units are sound"
        + ("" if deep else " (sizes; --deep compares contents)")
    )
    raise typer.Exit(1 if problems else 0)


for commands in (commands_report, commands_score, commands_cluster, commands_measure, commands_train):
    commands.register(app)


def main() -> None:
    """The console script: bad input is one clear message and exit status 2."""
    try:
        app()
    except InputError as error:
        print(f"svdstory: {error}", file=sys.stderr)
        sys.exit(2)
