"""The options that several commands share, and the plan that they ask for."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from svdstory.jobs.cli.defaults import default, read_defaults, results_folder
from svdstory.pipeline.config.documents import expanded, read_text
from svdstory.pipeline.config.strict import InputError


def _proven(run: Path) -> Path:
    from svdstory.jobs.study.plan import is_run
    from svdstory.jobs.study.sharing import guard

    if not run.exists() and (results_folder() / run).is_dir():
        run = results_folder() / run
    guard(is_run(run))
    return run


def _each_proven(runs: list[Path]) -> list[Path]:
    return [_proven(run) for run in runs]


# Whatever a command does with RUN, it is a run: asked here, before the command begins.
RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run folder, or its name in the results folder.", callback=_proven)
]
RunFolders = Annotated[
    list[Path], typer.Argument(metavar="RUN...", help="Run folders.", show_default=False, callback=_each_proven)
]
Replace = Annotated[
    bool, typer.Option("--replace", help="Take this for the run's plan, although it drops or changes cells of it.")
]


def _experiments() -> list[str]:
    from svdstory.jobs.study.experiment import shipped_experiments

    return list(shipped_experiments())


def _models() -> list[str]:
    from svdstory.pipeline.models.spec import shipped_models

    return [*shipped_models(), *read_defaults().models]


def _sites() -> list[str]:
    from svdstory.jobs.cluster.sites import shipped_sites

    return shipped_sites()


Model = Annotated[
    str | None,
    typer.Option(
        help="sdxl, sdxl-lightning, sd15, tiny, miniature, ... (models.yaml), a folder in diffusers' layout, or a "
        ".safetensors checkpoint.",
        autocompletion=_models,
    ),
]
Out = Annotated[Path | None, typer.Option(help="The run folder. Default: results/EXPERIMENT-MODEL")]


SiteName = Annotated[
    str | None,
    typer.Option(
        "--site", help="charisma, lab, generic, or the path of a YAML file of your own.", autocompletion=_sites
    ),
]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An experiment as the command line asks for it: its name, and what is given instead of its keys."""

    experiment: Annotated[
        str,
        typer.Argument(
            help="A shipped experiment (demo, smoke, report, ...) or a YAML file.", autocompletion=_experiments
        ),
    ]
    model: Model = None
    out: Out = None
    sets: Annotated[str | None, typer.Option(help="Prompt sets, separated by commas, instead of its own.")] = None
    methods: Annotated[str | None, typer.Option(help="Methods, separated by commas, instead of its own.")] = None
    seeds: Annotated[str | None, typer.Option(help="Whole numbers, separated by commas.")] = None
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels.")] = None
    vae: Annotated[
        str | None, typer.Option(help="A VAE's folder, or REPOSITORY@REVISION of the hub, instead of the model's own.")
    ] = None
    offload: Annotated[
        str | None,
        typer.Option(help="model, sequential or group: weights wait in the CPU's memory; for small cards. Slower."),
    ] = None
    dtype: Annotated[str | None, typer.Option(help="float16, float32 or bfloat16.")] = None
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any key of the experiment, its value as YAML: --set guidance=4 --set scheduler=euler. Repeatable.",
        ),
    ] = None

    def plan(self):
        """The plan that is asked for, and its run folder. Raises InputError that names the option that is wrong."""
        from svdstory.jobs.study.experiment import change, find_experiment, read_experiment, shipped_experiments
        from svdstory.jobs.study.plan import make_plan

        path = find_experiment(self.experiment)
        experiment, given = read_experiment(path), self.given()
        for key, (words, value) in given.items():
            experiment = change(experiment, key, value, words)
        said = {key: words for key, (words, _) in given.items()}
        said |= {"only_sets": f"--sets {self.sets}", "only_methods": f"--methods {self.methods}"}
        said |= {"dtype": f"--dtype {self.dtype}"} if self.dtype else {}
        named = experiment.model
        folder = read_defaults().models.get(named)
        if folder:
            experiment = experiment.model_copy(update={"model": str(expanded(folder))})
        with naming(said):
            plan = make_plan(
                path.stem,
                experiment,
                path.parent,
                self.dtype,
                like=named if folder else None,
                sets=_names(self.sets, "--sets"),
                methods=_names(self.methods, "--methods"),
            )
        if path not in shipped_experiments().values():
            plan = plan.model_copy(update={"file": str(path.resolve())})
        return plan, expanded(
            self.out
        ) if self.out else results_folder() / f"{path.stem}-{Path(plan.model.name).name.removesuffix('.safetensors')}"

    def given(self) -> dict[str, tuple[str, Any]]:
        """Key of the experiment -> the words that give it, as errors name them, and its value."""
        given = {}
        readers = dict(model=str, vae=str, offload=str, seeds=_numbers, steps=int, size=_width_and_height)
        for key, read in readers.items():
            if (text := getattr(self, key)) is not None:
                with naming({None: f"--{key} {text}"}):
                    given[key] = f"--{key} {text}", read(text)
        for text in self.settings or ():
            with naming({None: f"--set {text}"}):
                key, value = _setting(text)
            if key in given:
                raise InputError(f"{given[key][0]} and --set {text}: both give {key}. Give it once.")
            given[key] = f"--set {text}", value
        model, words = default("model")
        return given if "model" in given or not model else {"model": (words, model), **given}


def takes_experiment(experiment: str | None = None) -> Callable[[Callable], Callable]:
    """A decorator: the command takes all options of `Asked`, and gets them as its first argument.

    `experiment` is asked for where none is named; None: one must be named.
    """

    def decorate(command: Callable) -> Callable:
        shared = [
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, annotation=field.type, default=field.default)
            for field in fields(Asked)
            if field.default is not MISSING
        ]
        own = list(inspect.signature(command).parameters.values())[1:]
        name = inspect.Parameter(
            "experiment",
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Asked.__annotations__["experiment"],
            default=experiment or inspect.Parameter.empty,
        )
        parameters = [name, *shared, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own)]

        @wraps(command)
        def with_options(**words):
            asked = Asked(**{field.name: words.pop(field.name) for field in fields(Asked)})
            return command(asked, **words)

        with_options.__signature__ = inspect.Signature(parameters)
        with_options.__annotations__ = {p.name: p.annotation for p in parameters}
        return with_options

    return decorate


@contextmanager
def naming(said: dict[str | None, str]) -> Iterator[None]:
    """InputErrors that concern one of these keys begin with the words that gave it; then they concern none any more."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{said[error.key]}: {error}" if error.key in said else str(error)) from None


class Command(TyperCommand):
    """A command whose InputErrors begin with the option that they concern, as it was given."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except InputError as error:
            source = error.key and ctx.get_parameter_source(error.key)
            if not source or source.name != "COMMANDLINE":
                raise
            option, value = f"--{error.key}", ctx.params[error.key]
            with naming({error.key: option if isinstance(value, list | tuple) else f"{option} {value}"}):
                raise


def _names(text: str | None, option: str) -> list[str] | None:
    """The names between the commas, or None. Raises InputError where there are none."""
    found = text and [name.strip() for name in text.split(",") if name.strip()]
    if text is not None and not found:
        raise InputError(f"{option} {text!r}: names nothing. Leave the option out for all that the experiment has.")
    return found


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError("expected whole numbers, separated by commas, for example 0,1,2.") from None


def _width_and_height(text: str) -> list[int]:
    width, x, height = text.lower().partition("x")
    if not (x and width.isdecimal() and height.isdecimal()):
        raise InputError("expected WIDTHxHEIGHT in pixels, for example 1024x768.")
    return [int(width), int(height)]


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise InputError("expected KEY=VALUE, for example guidance=4.")
    return key.strip(), read_text(value, "the value").content
