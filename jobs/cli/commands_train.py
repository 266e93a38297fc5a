"""`svdstory miniature ...`: train the shipped model, and measure how good it is."""

from pathlib import Path
from typing import Annotated

import typer

miniature = typer.Typer(no_args_is_help=True, help="Train the miniature and its judges, and measure how good they are.")


def register(app: typer.Typer) -> None:
    """Add `miniature` to the command."""
    app.add_typer(miniature, name="miniature", rich_help_panel="Train")


@miniature.command()
def train(
    out: Annotated[Path, typer.Argument(help="Folder of the training: state, sheets, log, exported weights.")],
    minutes: Annotated[float, typer.Option(help="Wall-clock time of this call.")] = 120.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    batch: Annotated[int | None, typer.Option(help="Pictures a step. Default: 16 on a CPU, 256 on a GPU.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that render. Default: none on a CPU, one for each core on a GPU.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads, each with its part of the batch. Default: one for each core.")
    ] = None,
    parts: Annotated[
        str | None,
        typer.Option(help="What to train, separated by commas: vae, unet, decoder, judge, clip. Default: all."),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option("--start-from", help="An exported miniature to go on from; words it lacks get new embeddings."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Refuse to go on with a training that is there.")] = False,
    ship: Annotated[
        Path | None, typer.Option(help="At the end, publish pipeline, judges and log in this folder.")
    ] = None,
) -> None:
    """Train the miniature from nothing, or go on where it was stopped or killed.

    Example: svdstory miniature train training --minutes 120 --ship pipeline/miniature/weights
    """
    from svdstory.pipeline.miniature import export
    from svdstory.pipeline.miniature.train import PARTS
    from svdstory.pipeline.miniature.train import train as train_parts

    asked = tuple(parts.split(",")) if parts else PARTS
    train_parts(out, minutes, not fresh, device, batch, workers, threads, asked, start)
    if ship:
        typer.echo(f"{ship}: {export.ship(out, ship) / 1e6:.1f} MB")


@miniature.command()
def evaluate(
    weights: Annotated[
        Path | None, typer.Argument(help="An exported miniature with its judges. Default: the shipped one.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures to sample and judge.")] = 500,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 20,
    out: Annotated[Path | None, typer.Option(help="Folder for sheets and evaluation.json.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Sample pictures and judge them: kinds, scenes, colours, and whether plain sampling's subjects differ.

    Example: svdstory miniature evaluate --out results/reference/world
    """
    from svdstory.pipeline.bench.record import bench_device
    from svdstory.pipeline.miniature import WEIGHTS, evaluation

    bench_device(None, threads)
    for name, value in evaluation.evaluate(weights or WEIGHTS, count, steps, out).items():
        typer.echo(f"{name:28} {value:.3f}")


@miniature.command()
def calibrate(
    weights: Annotated[
        Path | None, typer.Argument(help="An exported miniature with its judges. Default: the shipped one.")
    ] = None,
    count: Annotated[int, typer.Option(min=2, help="Pictures of each source.")] = 240,
    out: Annotated[Path | None, typer.Option(help="Folder for calibration.json and calibration.md.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Paste known shares of other backgrounds into pictures, and tell what leakage reads; exit 1 beyond its bounds.

    Example: svdstory miniature calibrate --out results/reference/world
    """
    from svdstory.pipeline.bench.record import bench_device
    from svdstory.pipeline.miniature import WEIGHTS, calibration

    bench_device(None, threads)
    rows = calibration.calibrate(weights or WEIGHTS, count, out)
    typer.echo(calibration.table(rows, count), nl=False)
    if not all(row["right"] for row in rows):
        raise typer.Exit(1)
