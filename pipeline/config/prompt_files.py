"""Prompt sets as files: one of ours, a list, sets by name, or a benchmark file (superclass: list of sets).

Shipped ones are found by name or group.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from svdstory.pipeline.config.documents import Document, expanded, is_document, read_document
from svdstory.pipeline.config.prompt_sets import PromptSet, joined, prompts_of, texts_of
from svdstory.pipeline.config.references import MOST
from svdstory.pipeline.config.strict import InputError, Strict, Text, choices, one_line, parse
from svdstory.pipeline.config.subject_words import occurs, words_meant


class BenchmarkSet(Strict):
    """A set in the field's benchmark format, listed under a superclass."""

    style: Text
    subject: Text | list[Text]
    concept_token: Text | Annotated[list[Text], Field(min_length=1)]
    settings: list[Text] = Field(min_length=1)
    index: int | None = None


class BadSets(InputError):
    """Sets that cannot be read: name -> why; and those of the same file or folder that can."""

    def __init__(self, bad: dict[str, str], sound: list[PromptSet], key: str | None = None):
        rest = f"\nThe other {len(sound)} can be read: choose among them with --sets, or mend these." if sound else ""
        super().__init__("\n".join(bad.values()) + rest, key)
        self.bad, self.sound = bad, sound


@dataclass
class _Reading:
    """Sets as they are read one after the other: one that is bad stops itself alone."""

    sound: list[PromptSet] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, read: Callable[[], list[PromptSet]]) -> None:
        try:
            self.sound += read()
        except BadSets as error:
            self.sound += error.sound
            self.bad |= error.bad
        except InputError as error:
            self.bad[name] = str(error)

    def sets(self) -> list[PromptSet]:
        """The sets, where all are sound. Raises BadSets that tells of all that are not."""
        if self.bad:
            raise BadSets(self.bad, self.sound)
        return self.sound


def slug(text: str) -> str:
    """A safe file name: lower-case letters (any alphabet), digits and single dashes; at most 60 characters."""
    return re.sub(r"[^\w.]+|_+", "-", text.lower()).strip("-.")[:60] or "unnamed"


def read_sets(path: Path) -> list[PromptSet]:
    """The sets of one file: one set, a list of sets, or a benchmark file (superclass -> list of sets).

    Raises InputError that names the file and the key: BadSets where some of its sets are bad.
    """
    document = read_document(path)
    content, reading = document.content, _Reading()
    if _is_one_set(content):
        return [_near(path, _set(content, str(path), document, (), slug(path.stem), path.parent.name))]
    groups = {path.stem: content} if isinstance(content, list) else content
    if not isinstance(groups, dict) or not any(isinstance(entries, (list, dict)) for entries in groups.values()):
        raise InputError(
            f"{path}: got {type(content).__name__}, expected one prompt set (style, subject, concept, "
            "settings) or a benchmark file (superclass: list of sets)."
        )
    for group, entries in groups.items():
        keys = () if isinstance(content, list) else (group,)
        if isinstance(entries, dict):
            place = f"{path}: {group}", document, keys, slug(group), path.parent.name
            reading.add(slug(group), lambda: [_near(path, _set(entries, *place))])
        elif entries is not None and not isinstance(entries, list):
            reading.bad[slug(group)] = f"{path}: {group}: got {type(entries).__name__}, expected a list of sets."
        for i, entry in enumerate(entries if isinstance(entries, list) else ()):
            subject = entry.get("subject") if isinstance(entry, dict) else None
            name = f"{slug(group)}-{i:03d}-{slug(str(joined(subject)))}"
            place = f"{path}: {group}[{i}]", document, (*keys, i), name, slug(group)
            reading.add(name, lambda: [_near(path, _set(entry, *place))])
    if not reading.sound and not reading.bad:
        raise InputError(f"{path}: all its groups are empty: {', '.join(groups)}.")
    return reading.sets()


def _near(path: Path, prompts: PromptSet) -> PromptSet:
    named = {key: tuple(one.near(path.parent) for one in getattr(prompts, key)) for key in ("loras", "references")}
    return prompts.model_copy(update=named)


def _is_one_set(content: Any) -> bool:
    """Whether a file's content is one set, rather than sets by name or by group."""
    own = ("style", "subject", "concept", "concept_token", "settings")
    values = [content[key] for key in own if key in content] if isinstance(content, dict) else []
    return any(not isinstance(v, dict) and not (isinstance(v, list) and v and isinstance(v[0], dict)) for v in values)


def _set(entry: Any, where: str, document: Document, keys: tuple, name: str, group: str) -> PromptSet:
    """The set at `keys` of a document, in our words or in the benchmark's. Raises InputError."""
    if not isinstance(entry, dict):
        raise InputError(f"{where}: got {type(entry).__name__}, expected a set: style, subject, concept, settings.")
    if entry.get("references", True) in ([], (), None):
        raise InputError(f"{where}: references: got none, expected 1 to {MOST} pictures. Leave the key out.")
    written = lambda loc: document.written((*keys, *loc))  # noqa: E731
    notes = _comments(document, keys, entry)
    if "concept_token" in entry:
        read = parse(BenchmarkSet, entry, where, written)
        concept = texts_of(read.concept_token)
        subject, found = joined(read.subject), [one for one in concept if _found(one, read)]
        if len(found) < len(concept):
            lost = ", ".join(one for one in concept if one not in found)
            notes.append(f"no word of the concept {lost} stands in the subject: masks follow its whole phrase")
        entry = {
            "style": read.style,
            "subject": subject,
            "concept": [*found, subject] if len(found) < len(concept) else found,
            "settings": read.settings,
        }
    entry = {"name": name, "group": group, **entry}
    if notes:
        entry["note"] = "; ".join([*notes, *([entry["note"]] if isinstance(entry.get("note"), str) else [])])
    return parse(PromptSet, entry, where, written)


def _found(concept: str, read: BenchmarkSet) -> bool:
    subject = one_line(joined(read.subject))
    prompts = prompts_of(read.style, subject, read.settings)
    return all(occurs(concept, prompt) for prompt in prompts) or bool(words_meant(concept, subject))


def _comments(document: Document, keys: tuple, entry: dict) -> list[str]:
    """Notes of what YAML left out of a set's texts as a comment: a plain word's rest from ` #` on."""
    count = len(entry["settings"]) if isinstance(entry.get("settings"), list) else 0
    fields = [("style",), ("subject",), ("concept",), *(("settings", i) for i in range(count))]
    comments = {loc: document.comment((*keys, *loc)) for loc in fields}
    return [
        f"{'.'.join(map(str, loc))}: YAML takes {text[:60]!r} for a comment; put the text in quotes if it belongs to it"
        for loc, text in comments.items()
        if text
    ]


def shipped_folder() -> Path:
    return Path(str(resources.files("svdstory.prompts")))


def find_sets(wanted: str, near: Path | None = None) -> list[PromptSet]:
    """The sets that `wanted` names: a shipped group (good, bad), a shipped set, a YAML or JSON file, or a folder of them.

    Paths are taken relative to `near` (the experiment's folder), then to the current folder. Raises InputError with
    the nearest known name.
    """
    shipped = {p.stem: p for p in sorted(shipped_folder().glob("*/*.yaml"))}
    groups = {p.parent.name for p in shipped.values()}
    for base in (near, Path.cwd()):
        path = base / expanded(wanted) if base and wanted else None
        if path and is_document(path) and path.is_file():
            return read_sets(path)
        if path and path.is_dir() and (wanted not in {*groups, *shipped}):
            return _read_folder(path)
    if wanted in groups:
        return _read_folder(shipped_folder() / wanted)
    if wanted in shipped:
        return read_sets(shipped[wanted])
    known = sorted(groups) + list(shipped)
    raise InputError(
        f"unknown prompt set {wanted!r}{choices(wanted, known)}; or give the path of a YAML file.{_why_no_file(wanted, near)}"
    )


def _why_no_file(wanted: str, near: Path | None) -> str:
    if "://" in wanted:
        return " An address on the web is not fetched: download the file and give its path."
    if is_document(Path(wanted)):
        folders = dict.fromkeys(str(base) for base in (near, Path.cwd()) if base)
        return f" There is no such file in {' or '.join(folders)}."
    return ""


def _read_folder(folder: Path) -> list[PromptSet]:
    """All sets of a folder. Raises InputError where there are none: BadSets where some are bad."""
    reading = _Reading()
    for path in sorted(path for path in folder.iterdir() if is_document(path)):
        reading.add(slug(path.stem), lambda: read_sets(path))
    if not reading.sound and not reading.bad:
        raise InputError(f"{folder}: holds no YAML or JSON files. Expected prompt sets, one file each.")
    return reading.sets()
