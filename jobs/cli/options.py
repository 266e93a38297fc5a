"""The options that several commands share, and the plan that they ask for."""

from pathlib import Path
from typing import Annotated

import typer

from svdstory.pipeline.config.strict import InputError

ExperimentName = Annotated[str, typer.Argument(help="A shipped experiment (demo, smoke, report, ...) or a YAML file.")]


Model = Annotated[str | None, typer.Option(help="sdxl, tiny, miniature, or a folder in diffusers' layout.")]


Out = Annotated[Path | None, typer.Option(help="The run folder. Default: results/EXPERIMENT-MODEL")]


Names = Annotated[str | None, typer.Option(help="Names, separated by commas, instead of the experiment's.")]


Numbers = Annotated[str | None, typer.Option(help="Numbers, separated by commas, instead of the experiment's.")]


Steps = Annotated[int | None, typer.Option(help="Denoising steps.")]


Size = Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels.")]


Dtype = Annotated[str | None, typer.Option(help="float16, float32 or bfloat16.")]


RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


def planned(experiment: str, model, out, sets, methods, seeds, steps, size, dtype):
    """The plan that the command line asks for, and its run folder."""
    from svdstory.jobs.study.experiment import find_experiment, read_experiment
    from svdstory.jobs.study.plan import make_plan

    path = find_experiment(experiment)
    changes = {
        "model": model,
        "steps": steps,
        "seeds": seeds and numbers(seeds, "--seeds"),
        "size": size and numbers(size.replace("x", ","), "--size"),
    }
    plan = make_plan(
        path.stem,
        read_experiment(path, **changes),
        path.parent,
        dtype,
        sets=sets and sets.split(","),
        methods=methods and methods.split(","),
    )
    return plan, out or Path("results") / f"{path.stem}-{Path(plan.model.name).name}"


def numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"{option} {text!r}: expected whole numbers, for example 0,1,2 (or 1024x768 for a size)."
        ) from None
