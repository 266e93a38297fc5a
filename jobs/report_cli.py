"""The commands that look at a run: reduce and curate."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("reduce")(reduce_run)


def reduce_run(run: Annotated[Path, typer.Argument(help="Folder of the run.")],
               lang: Annotated[str, typer.Option(help="Language of the figures' labels: en or ru.")] = "en") -> None:
    """Make RUN/report: grids, figures, tables, metrics.csv and index.html.

    Example: svdstory reduce results/report

    Exit status 1 if a cell is missing, failed or corrupt: it is drawn as a hole with its cause.
    """
    from .reduce import reduce
    result = reduce(run, lang=lang)
    typer.echo(result.summary)
    if not result.complete:
        raise typer.Exit(1)
