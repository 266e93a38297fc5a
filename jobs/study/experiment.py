"""What is to be studied: prompt sets, methods, seeds, model and setting, read from a YAML file."""

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from svdstory.jobs.study.elsewhere import pattern_of
from svdstory.pipeline.config.brought import ELSEWHERE
from svdstory.pipeline.config.documents import expanded, is_document, read_document
from svdstory.pipeline.config.lora import Lora
from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.named_methods import MethodEntry, expand, shipped_entries
from svdstory.pipeline.config.own_code import read_function
from svdstory.pipeline.config.prompt_files import BadSets, find_sets, slug
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.schedulers import SchedulerConfig
from svdstory.pipeline.config.strict import (
    InputError,
    Strict,
    Text,
    Whole,
    choices,
    concerning,
    each_once,
    nothing_written,
    parse,
)
from svdstory.pipeline.metrics.names import parts
from svdstory.pipeline.models.memory import Offload


class NewMethod(MethodEntry):
    """A method of the experiment's own: in the words of methods.yaml, a Python function, or pictures made elsewhere.

    python: `my_method.py:generate`; `set` and `sweep` are then the function's own switches. pictures, masks: paths with
    {set}, {seed} and {image}.
    """

    name: Text = Field(min_length=1)
    python: Text | None = None
    pictures: Text | None = None
    masks: Text | None = None

    @model_validator(mode="after")
    def _one_kind(self):
        kinds = [key for key in ("base", "python", "pictures") if getattr(self, key)]
        if len(kinds) > 1:
            raise ValueError(f"{' and '.join(kinds)} exclude each other: give one")
        if self.pictures and (self.set or self.sweep):
            raise ValueError("set and sweep would do nothing to pictures that are there: leave them out")
        if self.masks and not self.pictures:
            raise ValueError("masks belong to pictures made elsewhere: give `pictures` too")
        return self

    def entry(self, near: Path) -> MethodEntry:
        """The method in the words of methods.yaml alone. Raises InputError for a file that cannot be used."""
        if self.python:
            function = read_function(self.python, near).model_dump()
            own = {f"function.set.{key}": value for key, value in self.set.items()}
            sweep = {f"function.set.{key}": values for key, values in self.sweep.items()}
            return MethodEntry(about=self.about, set={"function": function, **own}, sweep=sweep)
        if self.pictures:
            return MethodEntry(
                about=self.about, set={"pictures": pattern_of(self.pictures, self.masks, near).model_dump()}
            )
        return MethodEntry(**{key: getattr(self, key) for key in MethodEntry.model_fields})


class Experiment(Strict):
    """An experiment file. Unset seeds are each set's own; unset steps, guidance, size, scheduler and scorers the model's.

    sets: groups (good, bad), names or paths of YAML files. methods: names of methods.yaml, or entries with a name.
    vae: a folder, or REPOSITORY@REVISION of the hub, instead of the model's own. size: (width, height) in pixels. scheduler:
    a name of pipeline/config/schedulers.py, or `own`, the model's;
    scheduler_config: changes to its configuration, in diffusers' words. exact_filter: decompose in float64 what
    spectral filters otherwise do within TOLERANCE (pipeline/config/methods.py), for a comparison. negative: of the sets
    that say none of their own. loras: {file, scale}, under each set's own. long_prompts: chunk reads a prompt of more than
    77 tokens in several parts. prompt_weights: `(word:1.2)` in a prompt is a weight. offload, compile: how the model
    works (pipeline/models/load.py), not what it draws. scorers: what `score` measures. font:
    a font file for the report's pictures, for scripts that DejaVu Sans lacks (Chinese, ...).
    """

    about: Text = ""
    sets: tuple[Text, ...] = Field(min_length=1)
    methods: tuple[Text | NewMethod, ...] = Field(min_length=1)
    model: str = "sdxl"
    vae: Text | None = None
    seeds: tuple[Whole, ...] | None = Field(default=None, min_length=1)
    steps: int | None = None
    size: tuple[int, int] | None = None
    guidance: float | None = None
    scheduler: str | None = None
    scheduler_config: SchedulerConfig | None = None
    exact_filter: bool = False
    negative: Text = ""
    loras: tuple[Lora, ...] = ()
    long_prompts: Literal["error", "chunk"] = "error"
    prompt_weights: bool = False
    offload: Offload | None = None
    compile: bool = False
    scorers: tuple[str, ...] | None = None
    font: str | None = None

    @field_validator("sets", "methods", "seeds", "scorers")
    @classmethod
    def _each_once(cls, values, info):
        each_once([getattr(value, "name", value) for value in values or ()], info.field_name.removesuffix("s"))
        return values

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
    path, shipped = expanded(wanted), shipped_experiments()
    if is_document(path):
        if path.is_file():
            return path
        raise InputError(f"experiment {wanted}: there is no such file in {Path.cwd()}.")
    if wanted not in shipped:
        raise InputError(
            f"unknown experiment {wanted!r}{choices(wanted, list(shipped))}; or give the path of a YAML or JSON file."
        )
    return shipped[wanted]


def read_experiment(path: Path, **changes) -> Experiment:
    """The experiment with `changes` (those that are not None) over what the file says."""
    document = read_document(path)
    content, changes = document.content, {key: value for key, value in changes.items() if value is not None}
    if not isinstance(content, dict):
        raise InputError(f"{path}: got {type(content).__name__}, expected a mapping with sets, methods and model.")
    written = lambda loc: nothing_written(loc) if loc[0] in changes else document.written(loc)  # noqa: E731
    return parse(Experiment, {**content, **changes}, str(path), written)


def change(experiment: Experiment, key: str, value: Any, where: str) -> Experiment:
    """The experiment with another value for one of its keys. Raises InputError that says `where` the value came from."""
    content = experiment.model_dump(mode="json", exclude_unset=True)
    return parse(Experiment, {**content, key: value}, where)


def read_prompt_sets(experiment: Experiment, near: Path, only: list[str] | None = None) -> dict[str, PromptSet]:
    """The experiment's sets by name; `only` these, or these groups, which may also be others than its own.

    Two different sets of one name, from two files, are told apart by the file's name before it. Raises InputError that
    tells of all sets that cannot be read; sets that `only` leaves out may be bad.
    """
    own, bad = _sets_of(experiment.sets, near)
    if only is None:
        if bad:
            raise BadSets(bad, list(own.values()), key="sets")
        return own
    chosen: dict[str, PromptSet] = {}
    with concerning("only_sets"):
        each_once(only, "set")
        for wanted in only:
            if wanted in bad:
                raise InputError(bad[wanted])
            group = {name: one for name, one in own.items() if one.group == wanted}
            chosen |= {wanted: own[wanted]} if wanted in own else group or _sound_sets([wanted], Path.cwd())
    return chosen


def _sound_sets(wanted: Iterable[str], near: Path) -> dict[str, PromptSet]:
    sets, bad = _sets_of(wanted, near)
    if bad:
        raise BadSets(bad, list(sets.values()))
    return sets


def _sets_of(wanted: Iterable[str], near: Path) -> tuple[dict[str, PromptSet], dict[str, str]]:
    """The sets by name, and those that cannot be read: name -> why."""
    sets: dict[str, PromptSet] = {}
    bad: dict[str, str] = {}
    for one in wanted:
        try:
            found = find_sets(one, near)
        except BadSets as error:
            found, bad = error.sound, bad | error.bad
        except InputError as error:
            found, bad = [], bad | {one: str(error)}
        for prompts in found:
            path, given = Path(one), prompts.name
            file = path.parent.name if slug(path.stem) == given else path.stem
            names = [given, f"{slug(file)}-{given}", *(f"{slug(file)}-{n}-{given}" for n in range(2, len(sets) + 3))]
            named = (prompts.model_copy(update={"name": name}) for name in names)
            prompts = next(prompts for prompts in named if sets.get(prompts.name, prompts) == prompts)
            sets[prompts.name] = prompts
    return sets, bad


def own_switches(experiment: Experiment, near: Path = Path()) -> dict[str, set[str]]:
    """The switches that the experiment itself sets, by the name of the method: not those of a base."""
    own = {m.name: _named(m, near) for m in experiment.methods if not isinstance(m, str)}
    entries = {**shipped_entries(), **own}
    return {name: {*entry.set, *entry.sweep} for base, entry in own.items() for name in expand(base, entries)}


def read_methods(experiment: Experiment, near: Path = Path(), only: list[str] | None = None) -> dict[str, Method]:
    """The experiment's methods by name, sweeps expanded; `only` these, which may also be others of methods.yaml.

    Paths of the user's own are taken relative to `near`. Pictures made elsewhere say so in their method's name. Raises
    InputError for unknown or impossible methods.
    """
    with concerning("methods"):
        own = {m.name: _named(m, near) for m in experiment.methods if not isinstance(m, str)}
        shipped = shipped_entries()
        for name in own:
            if _is_shipped(name):
                raise InputError(f"the method name {name!r} is taken by svdstory's own. Choose another name.")
        entries = {**shipped, **own}
        asked = [method if isinstance(method, str) else method.name for method in experiment.methods]
        methods = _together([_expanded(name, entries) for name in asked])
    if only is None:
        return methods
    with concerning("only_methods"):
        chosen = [name if name in methods else name + ELSEWHERE for name in only]
        return _together(
            [{n: methods[n]} if n in methods else _expanded(name, entries) for n, name in zip(chosen, only)]
        )


def _named(method: NewMethod, near: Path) -> MethodEntry:
    try:
        return method.entry(near)
    except InputError as error:
        raise InputError(f"method {method.name}: {error}", error.key) from None


def _expanded(name: str, entries: dict[str, MethodEntry]) -> dict[str, Method]:
    """The methods that `name` stands for, those of pictures marked."""
    return {n + (ELSEWHERE if method.pictures else ""): method for n, method in expand(name, entries).items()}


def _is_shipped(name: str) -> bool:
    """Whether methods.yaml, its sweeps or its rules know a method of that name."""
    try:
        return bool(expand(name))
    except InputError:
        return False


def _together(parts: list[dict[str, Method]]) -> dict[str, Method]:
    """Raises InputError for two methods of one name, one from a sweep perhaps."""
    each_once([name for part in parts for name in part], "method")
    return {name: method for part in parts for name, method in part.items()}
