"""The commands for several runs, and for a run's way to others: merge, compare, export."""

from pathlib import Path
from typing import Annotated

import typer

from svdstory.jobs.cli.options import RunFolder, RunFolders


def register(app: typer.Typer) -> None:
    """Add the commands to svdstory's."""
    for command in (merge, compare, export):
        app.command(rich_help_panel="Report")(command)


def merge(
    runs: RunFolders, out: Annotated[Path, typer.Option(help="The folder that they meet in; it may hold some already.")]
) -> None:
    """Join runs of one model and one setting, several people's or clusters', in a folder of its own.

    Example: svdstory merge results/mine ../her/results/hers --out results/ours

    No file is copied where the file system has hard links. Exit status 1 if no run has made some of the units.
    """
    from svdstory.jobs.study.merge import merge as join

    joined = join(runs, out)
    typer.echo(
        f"{out}: {len(joined.plan.cells)} cells, {len(joined.plan.units)} units; {joined.came} came, {joined.there} were "
        f"there" + (f", {joined.missing} were made in no run" if joined.missing else "")
    )
    raise typer.Exit(1 if joined.missing else 0)


def compare(
    one: RunFolder,
    other: RunFolder,
) -> None:
    """Set two runs of the same cells side by side: which metrics moved, with intervals over prompt sets.

    Example: svdstory compare results/report-sdxl results/report-sdxl-50-steps

    A number is another's minus the first's; it moved where its 95 % interval leaves out 0.
    """
    from svdstory.jobs.report.compare_runs import compare_runs

    typer.echo(compare_runs(one, other).text())


def export(
    run: RunFolder,
    to: Annotated[Path, typer.Option("--zip", help="The ZIP file to write.")],
    images: Annotated[bool, typer.Option("--images", help="All pictures too, at full size.")] = False,
) -> None:
    """Pack a run's report, plan and manifests for a paper's supplement, without folder or machine names in the latter.

    Example: svdstory export results/report-sdxl --zip supplement.zip
    """
    from svdstory.jobs.report.supplement import export as pack

    count = pack(run, to, images)
    typer.echo(f"{to}: {count} files, {to.stat().st_size / 1e6:.1f} MB")
