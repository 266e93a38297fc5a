"""Prompt sets: one subject in several settings. Imports without torch."""

import re
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from svdstory.pipeline.config.strict import InputError, Strict, choices, parse, read_yaml


class PromptSet(Strict):
    """One subject in several settings; image i shows settings[i]. Prompts read "{style} {subject} {setting}".

    concept: the subject word or words that masks follow (section 3 of the method). The name, the group and where the
    set comes from do not change pixels.
    """

    style: str
    subject: str
    concept: tuple[str, ...] = Field(min_length=1)
    settings: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = (0,)
    name: str = ""
    group: str = ""
    origin: Literal["report", "curated", "user"] = "user"
    why: str = ""

    @field_validator("concept", "settings", "seeds", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value):
        value = [value] if isinstance(value, (str, int)) else value
        return tuple(value) if isinstance(value, list) else value  # strict: no list where a tuple stands

    @field_validator("group")
    @classmethod
    def _group_is_not_the_total(cls, group):
        if group.strip().lower() == "all":
            raise ValueError("tables call all sets together so: give `group:` another word, or the folder another name")
        return group

    @model_validator(mode="after")
    def _concept_in_subject(self):
        missing = [word for word in self.concept if word.lower() not in self.prompts[0].lower()]
        if missing:
            raise ValueError(
                f"the concept {missing[0]!r} does not occur in the prompt {self.prompts[0]!r}: "
                "name a word of the subject"
            )
        return self

    @property
    def prompts(self) -> list[str]:
        return [
            " ".join(part.strip() for part in (self.style, self.subject, setting) if part.strip())
            for setting in self.settings
        ]

    def content(self) -> dict:
        """What changes pixels."""
        return {
            "style": self.style,
            "subject": self.subject,
            "concept": list(self.concept),
            "settings": list(self.settings),
        }


class BenchmarkSet(Strict):
    """A set in the field's benchmark format, listed under a superclass."""

    style: str
    subject: str
    concept_token: str | list[str]
    settings: list[str]
    index: int | None = None


def slug(text: str) -> str:
    """A safe file name: lower-case letters (any alphabet), digits and single dashes; at most 60 characters."""
    return re.sub(r"[^\w.]+|_+", "-", text.lower()).strip("-.")[:60] or "unnamed"


def read_sets(path: Path) -> list[PromptSet]:
    """The sets of one YAML file: one set, or a benchmark file (superclass -> list of sets).

    Raises InputError that names the file and the key.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or not content:
        raise InputError(
            f"{path}: got {type(content).__name__}, expected one prompt set (style, subject, concept, "
            "settings) or a benchmark file (superclass: list of sets)."
        )
    if all(isinstance(value, list) and value and all(isinstance(v, dict) for v in value) for value in content.values()):
        return [
            _from_benchmark(entry, f"{path}: {superclass}[{i}]", superclass, i)
            for superclass, entries in content.items()
            for i, entry in enumerate(entries)
        ]
    return [parse(PromptSet, {"name": slug(path.stem), "group": path.parent.name, **content}, str(path))]


def _from_benchmark(entry: dict, where: str, superclass: str, i: int) -> PromptSet:
    read = parse(BenchmarkSet, entry, where)
    return parse(
        PromptSet,
        {
            "style": read.style,
            "subject": read.subject,
            "concept": read.concept_token,
            "settings": read.settings,
            "group": slug(superclass),
            "name": f"{slug(superclass)}-{i:03d}-{slug(read.subject)}",
        },
        where,
    )


def shipped_folder() -> Path:
    return Path(str(resources.files("svdstory.prompts")))


def find_sets(wanted: str, near: Path | None = None) -> list[PromptSet]:
    """The sets that `wanted` names: a shipped group (good, bad), a shipped set, a YAML file, or a folder of them.

    Paths are taken relative to `near` (the experiment's folder), then to the current folder. Raises InputError with
    the nearest known name.
    """
    for base in (near, Path.cwd()):
        path = base / wanted if base else None
        if path and path.suffix in (".yaml", ".yml") and path.is_file():
            return read_sets(path)
        if path and ("/" in wanted or wanted.startswith(".")) and path.is_dir():
            return _read_folder(path)
    shipped = {p.stem: p for p in sorted(shipped_folder().glob("*/*.yaml"))}
    groups = {p.parent.name for p in shipped.values()}
    if wanted in groups:
        return _read_folder(shipped_folder() / wanted)
    if wanted in shipped:
        return read_sets(shipped[wanted])
    known = sorted(groups) + list(shipped)
    raise InputError(f"unknown prompt set {wanted!r}{choices(wanted, known)}; or give the path of a YAML file.")


def _read_folder(folder: Path) -> list[PromptSet]:
    sets = [s for path in sorted(folder.glob("*.y*ml")) for s in read_sets(path)]
    if not sets:
        raise InputError(f"{folder}: holds no YAML files. Expected prompt sets, one file each.")
    return sets
