"""What is searched: the space of a method's switches, where it is searched and where its best are confirmed."""

import json
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from svdstory.jobs.study.experiment import Experiment, read_prompt_sets
from svdstory.pipeline.config.documents import expanded, is_document, read_document
from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.named_methods import MethodEntry, expand, shipped_entries
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError, Strict, Text, Whole, canonical, choices, parse

Choices = Annotated[list[Any], Field(min_length=1)]


class Range(Strict):
    """Numbers from low to high, both included; whole ones where both are whole; `log`: even in the logarithm."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _ascends(self):
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"low {self.low}, high {self.high}: expected low < high, and over 0 with log")
        return self


class Part(Strict):
    """Prompt sets (groups, names, files beside the space's) and seeds."""

    sets: tuple[Text, ...] = Field(min_length=1)
    seeds: tuple[Whole, ...] = Field(min_length=1)


class Space(Strict):
    """A space file.

    base, set: the method that every trial begins as, in the words of methods.yaml. space: name -> choices, or a range.
    The name is a switch (`filter_k.clip`; `filter` is both); a choice that is a mapping sets the switches that it names
    instead, and `{}` none. Later names go over earlier ones. objectives: metrics of the report, or its axes. against:
    methods that are measured beside the trials. batch: trials that are asked for together, without knowing of each other.
    """

    about: Text = ""
    base: str = "sdxl"
    set: dict[str, Any] = {}
    space: dict[str, Choices | Range] = Field(min_length=1)
    objectives: tuple[str, ...] = Field(("consistency", "leakage"), min_length=2)
    against: tuple[str, ...] = ("sdxl", "consistory")
    search: Part
    confirm: Part
    batch: int = Field(8, ge=1)
    sampler_seed: int = 0

    def switches(self, chosen: dict[str, Any]) -> dict[str, Any]:
        """Name -> choice as switch -> value: a mapping sets the switches that it names."""
        changes = {}
        for switch, value in chosen.items():
            changes |= value if isinstance(value, dict) else {switch: value}
        return changes

    def method(self, switches: dict[str, Any], name: str) -> Method:
        """The method of a trial. Raises InputError for switches that exclude each other."""
        entry = MethodEntry(base=self.base, set=self.set | switches)
        return expand(name, {**shipped_entries(), name: entry})[name]

    def sets(self, part: Part, near: Path) -> dict[str, PromptSet]:
        return read_prompt_sets(Experiment(sets=part.sets, methods=("sdxl",)), near)


def spaces() -> dict[str, Path]:
    """The shipped ones."""
    folder = Path(str(resources.files("svdstory.jobs.tune.spaces")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_space(wanted: str) -> tuple[Space, Path]:
    """A shipped space or a file, and where it lies. Raises InputError for what is wrong with it."""
    path = expanded(wanted)
    if not is_document(path):
        if wanted not in spaces():
            raise InputError(
                f"unknown space {wanted!r}{choices(wanted, list(spaces()))}; or give a YAML file.", "space"
            )
        path = spaces()[wanted]
    if not path.is_file():
        raise InputError(f"space {wanted}: there is no such file in {Path.cwd()}.", "space")
    document = read_document(path)
    space = parse(Space, document.content, str(path), document.written)
    search, confirm = (space.sets(part, path.parent) for part in (space.search, space.confirm))
    both = [
        (name, seed)
        for name, prompts in confirm.items()
        for seed in space.confirm.seeds
        if seed in space.search.seeds and any(prompts.content() == other.content() for other in search.values())
    ]
    if both:
        raise InputError(
            f"{path}: confirm: set {both[0][0]}, seed {both[0][1]} is searched on too: what is confirmed must be held out. "
            "Give other sets or other seeds."
        )
    return space, path


def as_text(choice: Any) -> str:
    """A choice as the journal keeps it."""
    return canonical(choice)


def from_text(text: Any) -> Any:
    """A choice again; numbers of a range are what they are."""
    return json.loads(text) if isinstance(text, str) else text
