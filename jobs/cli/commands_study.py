"""The commands for a study here and now: run, plan, verify."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from svdstory.jobs.cli.options import Asked, Replace, RunFolder, SiteName, takes_experiment


def register(app: typer.Typer) -> None:
    """Add the commands to svdstory's."""
    for command in (run, plan, verify):
        app.command(rich_help_panel="Study")(command)


@takes_experiment("demo")
def run(
    asked: Asked,
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
            help="Processes that share the units. Default: one for each GPU; "
            "for tiny and miniature without a GPU one for each core.",
        ),
    ] = None,
    replace: Replace = False,
):
    """Do an experiment here and now: plan, sample, score, reduce. Run it again to go on where it was stopped.

    Example: svdstory run report --model tiny --sets bad
    """
    from svdstory.jobs.cli.progress import progress
    from svdstory.jobs.node.local_run import make_all
    from svdstory.jobs.study.elsewhere import bring_in
    from svdstory.jobs.study.notes import notes
    from svdstory.jobs.study.run_folder import prepare
    from svdstory.pipeline.models.spec import check_device

    check_device(device)
    plan, folder = asked.plan()
    store = prepare(plan, folder, replace)
    bring_in(plan, store)
    cells, units = len(plan.cells), len(plan.units)
    typer.echo(
        f"{folder}: {len(plan.sets)} prompt sets, {len(plan.methods)} methods, {cells} cells, {units} units; "
        f"model {plan.model.name}, {plan.steps} steps, {plan.size[0]}x{plan.size[1]}",
        err=True,
    )
    for line in notes(plan):
        typer.echo(f"note: {line}", err=True)
    states, scores = make_all(plan, store, device=device, micro_batch=micro_batch, workers=workers, progress=progress)
    if len(states) < units:
        typer.echo(f"{units - len(states)} units were not made. Run the same command again to go on.", err=True)
    finish(folder, scores)


def finish(folder: Path, scores: dict[tuple[str, str], str]) -> None:
    """Say what has no numbers, and reduce; exit status 1 if anything that it asks for is missing."""
    from svdstory.jobs.cli.commands_score import say_unscored
    from svdstory.jobs.report.reduce import reduce

    say_unscored({place: state for place, state in scores.items() if state not in ("scored", "fresh")})
    result = reduce(folder)
    typer.echo(f"{result.summary}\n{result.page}")
    raise typer.Exit(0 if result.complete and not result.unscored else 1)


@takes_experiment("demo")
def plan(asked: Asked, site: SiteName = None):
    """Show what a run would do: units, images and disk, checked as `run` and `submit` check them. Writes nothing.

    With --site, also what `submit` would ask for there, as `submit --dry-run` shows it.

    Example: svdstory plan report --site charisma
    """
    from svdstory.jobs.study.notes import notes
    from svdstory.jobs.study.run_folder import bytes_of, files_of
    from svdstory.jobs.study.store import Store

    made, folder = asked.plan()
    present = Store(folder).present()
    done = sum(key in present for key in made.units)
    images = sum(len(made.sets[unit.set].settings) for unit in made.units.values())
    space = sum(bytes_of(made, key) for key in made.units)
    typer.echo(
        f"experiment  {asked.experiment}: {made.about}\n"
        f"run folder  {folder}" + (f" ({done} units there)" if done else "") + "\n"
        f"model       {made.model.name} ({made.model.dtype}), {made.steps} steps of {made.sampler}, "
        f"{made.size[0]}x{made.size[1]}, guidance {made.guidance}{', exact filters' if made.exact_filter else ''}\n"
        f"sets        {len(made.sets)}\n{in_columns(made.sets)}\n"
        f"methods     {len(made.methods)}\n{in_columns(made.methods)}\n"
        f"cells       {len(made.cells)}, units {len(made.units)}, images {images}\n"
        f"disk        at most {space / 1e9:.2f} GB, {files_of(made, made.units, 1)} files"
        + "".join(f"\n{line}" for line in [*subject_lines(made, folder), *memory_lines(made)])
        + "".join(f"\nnote        {line}" for line in notes(made))
    )
    if site:
        from svdstory.jobs.cli.commands_cluster import dry_run_text, load_profile

        typer.echo(f"\n{dry_run_text(made, folder, load_profile(site))}")


def subject_lines(plan, folder: Path) -> list[str]:
    """How many subjects are tuned, in what time and on how much disk."""
    from svdstory.jobs.study.run_folder import subjects_bytes
    from svdstory.jobs.study.store import Store
    from svdstory.jobs.study.tuned import SHELF, seconds

    subjects = {one.key: one for one in plan.sittings.values()}
    if not subjects:
        return []
    there = Store(folder, SHELF).finished(subjects)
    hours = sum(seconds(one, plan.model, plan.size) for key, one in subjects.items() if key not in there) / 3600
    more = f" ({len(there)} there)" if there else ""
    return [
        f"subjects    {len(subjects)}{more} to tune, about {hours:.1f} hours, {subjects_bytes(plan, folder) / 1e9:.2f} GB"
    ]


def in_columns(names: Iterable[str]) -> str:
    """Names as a table as wide as the terminal, read line by line."""
    names = list(names)
    cell = max(map(len, names)) + 2
    across = max(1, (shutil.get_terminal_size().columns - 2) // cell)
    lines = [names[i : i + across] for i in range(0, len(names), across)]
    return "\n".join("  " + "".join(name.ljust(cell) for name in line).rstrip() for line in lines)


def memory_lines(plan) -> list[str]:
    """What cards of 16 and 32 GB hold (8 too, with offload), where the formula of pipeline/models/memory.py applies."""
    from svdstory.pipeline.config.methods import in_rows
    from svdstory.pipeline.models import memory

    if plan.model.one_encoder:
        return ["memory      not known for Stable Diffusion 1.5 and 2.1: set --micro-batch yourself"]
    if not memory.applies(plan.model):
        return []
    lines = []
    for card in (8, 16, 32) if plan.offload else (16, 32):
        fits = {
            (name, rows, own.anchors(rows)): memory.largest_micro_batch(own, rows, plan.size, card, plan.offload)
            for name, method in plan.methods.items()
            for images, pictures in {(len(prompts.settings), len(prompts.references)) for prompts in plan.sets.values()}
            for own, rows in [in_rows(method, images, pictures)]
        }
        too_large = sorted({name for (name, _, _), most in fits.items() if most is None})
        parts = [most for (_, rows, anchors), most in fits.items() if most is not None and most < rows - anchors]
        said = (
            f"too small for {', '.join(too_large)}"
            if too_large
            else f"takes micro-batches, of {min(parts)} images for the largest"
            if parts
            else "holds whole sets"
        )
        lines.append(f"{f'{card} GB card':12}{said}")
    if plan.offload:
        least = max(
            memory.peak_gib(method, len(prompts.settings), plan.size, 1, plan.offload)
            for method in plan.methods.values()
            for prompts in plan.sets.values()
        )
        lines.append(
            f"offload     {plan.offload}: {least:.1f} GiB at a micro-batch of 1, counted; its time is not measured"
        )
    return lines


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
