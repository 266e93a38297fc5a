"""What is to be studied: prompt sets, methods, seeds, model and setting, read from a YAML file."""

from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from svdstory.pipeline.config.methods import Method, MethodEntry, expand, shipped_entries
from svdstory.pipeline.config.prompt_sets import PromptSet, find_sets
from svdstory.pipeline.config.strict import InputError, Strict, choices, concerning, parse, read_yaml
from svdstory.pipeline.metrics.names import parts


class NewMethod(MethodEntry):
    """A method of the experiment's own, in the words of methods.yaml."""

    name: str


class Experiment(Strict):
    """An experiment file. Unset seeds are each set's own; unset steps, size and scorers the model's own.

    sets: groups (good, bad), names or paths of YAML files. methods: names of methods.yaml, or entries with a name.
    size: (width, height) in pixels. exact_filter: decompose in float64 what spectral filters otherwise do within
    TOLERANCE (pipeline/config/methods.py), for a comparison. scorers: what `score` measures.
    """

    about: str = ""
    sets: tuple[str, ...] = Field(min_length=1)
    methods: tuple[str | NewMethod, ...] = Field(min_length=1)
    model: str = "sdxl"
    seeds: tuple[int, ...] | None = Field(default=None, min_length=1)
    steps: int | None = None
    size: tuple[int, int] | None = None
    guidance: float = 5.0
    scheduler: str = "ddim"
    exact_filter: bool = False
    scorers: tuple[str, ...] | None = None

    @field_validator("seeds")
    @classmethod
    def _each_seed_once(cls, seeds):
        if seeds and len(set(seeds)) < len(seeds):
            raise ValueError(f"a seed stands twice in {', '.join(map(str, seeds))}: name each once")
        return seeds

    @field_validator("scorers")
    @classmethod
    def _scorers_are_known(cls, scorers):
        for name in scorers or ():
            try:
                parts(name)
            except InputError as error:
                raise ValueError(str(error)) from None
        return scorers


def shipped_experiments() -> dict[str, Path]:
    folder = Path(str(resources.files("svdstory.jobs.study.experiments")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_experiment(wanted: str) -> Path:
    """The file of a shipped experiment, or of a path. Raises InputError with the nearest known name."""
    if Path(wanted).suffix in (".yaml", ".yml"):
        if Path(wanted).is_file():
            return Path(wanted)
        raise InputError(f"experiment {wanted}: there is no such file in {Path.cwd()}.")
    shipped = shipped_experiments()
    if wanted not in shipped:
        raise InputError(
            f"unknown experiment {wanted!r}{choices(wanted, list(shipped))}; or give the path of a YAML file."
        )
    return shipped[wanted]


def read_experiment(path: Path, **changes) -> Experiment:
    """The experiment with `changes` (those that are not None) over what the file says."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: got {type(content).__name__}, expected a mapping with sets, methods and model.")
    return parse(Experiment, {**content, **{k: v for k, v in changes.items() if v is not None}}, str(path))


def change(experiment: Experiment, key: str, value: Any, where: str) -> Experiment:
    """The experiment with another value for one of its keys. Raises InputError that says `where` the value came from."""
    content = experiment.model_dump(mode="json", exclude_unset=True)
    return parse(Experiment, {**content, key: value}, where)


def read_prompt_sets(experiment: Experiment, near: Path, only: list[str] | None = None) -> dict[str, PromptSet]:
    """The experiment's sets by name; `only` these, which may also be others than its own.

    Raises InputError for two different sets of one name.
    """
    own: dict[str, PromptSet] = {}
    with concerning("sets"):
        for wanted in experiment.sets:
            _add(own, find_sets(wanted, near), wanted)
    if only is None:
        return own
    chosen: dict[str, PromptSet] = {}
    with concerning("only_sets"):
        for wanted in only:
            _add(chosen, [own[wanted]] if wanted in own else find_sets(wanted, Path.cwd()), wanted)
    return chosen


def _add(sets: dict[str, PromptSet], found: list[PromptSet], wanted: str) -> None:
    for one in found:
        if sets.setdefault(one.name, one) != one:
            raise InputError(
                f"two different prompt sets are called {one.name!r} (one from {wanted!r}). Rename one of the files."
            )


def read_methods(experiment: Experiment, only: list[str] | None = None) -> dict[str, Method]:
    """The experiment's methods by name, sweeps expanded; `only` these, which may also be others of methods.yaml.

    Raises InputError for unknown or impossible ones.
    """
    own = {m.name: MethodEntry(**m.model_dump(exclude={"name"})) for m in experiment.methods if not isinstance(m, str)}
    clash = set(own) & set(shipped_entries())
    if clash:
        raise InputError(f"the method name {sorted(clash)[0]!r} is taken by svdstory's own. Choose another name.")
    entries = {**shipped_entries(), **own}
    methods: dict[str, Method] = {}
    with concerning("methods"):
        for method in experiment.methods:
            methods |= expand(method if isinstance(method, str) else method.name, entries)
    if only is None:
        return methods
    chosen: dict[str, Method] = {}
    with concerning("only_methods"):
        for name in only:
            chosen |= {name: methods[name]} if name in methods else expand(name, entries)
    return chosen
