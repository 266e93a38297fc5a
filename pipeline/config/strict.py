"""Typed, strict configuration: unknown keys, wrong types and impossible combinations are errors that help."""

import difflib
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

FEW = 12  # names that an error may list; of more, the nearest five


class InputError(ValueError):
    """Bad input. Its message says what, where, what was got, what is allowed and what to do next.

    `key` is the experiment's key that it concerns, where there is one: a caller who gave it by another name can say so.
    """

    def __init__(self, message: str, key: str | None = None):
        super().__init__(message)
        self.key = key


@contextmanager
def concerning(key: str) -> Iterator[None]:
    """InputErrors that are raised inside concern this key, if they don't say another."""
    try:
        yield
    except InputError as error:
        error.key = error.key or key
        raise


class Strict(BaseModel):
    """A frozen record that refuses unknown keys and does not guess types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Record = TypeVar("Record", bound=BaseModel)


def parse(record: type[Record], content: Any, where: str) -> Record:
    """Check `content` (what a YAML or JSON file holds) as a `record`.

    Raises InputError that names `where`, the key, what was got and what is allowed.
    """
    try:
        return record.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise InputError("\n".join(f"{where}: {_explain(e, record)}" for e in error.errors())) from None
    except TypeError as error:
        raise InputError(f"{where}: {error}; a configuration holds text, numbers, lists and mappings only") from None


def _explain(error: dict, record: type[BaseModel]) -> str:
    path = [str(part) for part in error["loc"]]
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        allowed = _fields_at(record, error["loc"][:-1])
        return f"unknown key {key!r}{choices(path[-1], allowed, 'Allowed')}."
    if error["type"] == "missing":
        return f"the key {key!r} is missing."
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}: got {error['input']!r}: {message}" if key else message


def _fields_at(record: type[BaseModel], loc: tuple) -> list[str]:
    """Names of the fields of the nested record that `loc` leads to."""
    for part in loc:
        field = record.model_fields.get(part) if isinstance(part, str) else None
        if field is None:
            continue
        inner = [t for t in _types(field.annotation) if isinstance(t, type) and issubclass(t, BaseModel)]
        record = inner[0] if inner else record
    return list(record.model_fields)


def _types(annotation: Any) -> list:
    inner = getattr(annotation, "__args__", ())
    return [t for arg in inner for t in _types(arg)] if inner else [annotation]


def nearest(name: str, allowed: list[str]) -> str:
    """` (did you mean 'x'?)`, or nothing where no allowed name is near."""
    close = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def choices(name: str, allowed: list[str], word: str = "Known") -> str:
    """` (did you mean 'x'?). Known: a, x, z`; of more than FEW names the five nearest, so that the error stays short."""
    told = f"{word}: {', '.join(allowed)}"
    if len(allowed) > FEW:
        told = f"Nearest of {len(allowed)}: {', '.join(difflib.get_close_matches(name, allowed, n=5, cutoff=0))}"
    return f"{nearest(name, allowed)}. {told}"


def read_yaml(path: Path) -> Any:
    """The content of a YAML file (safe_load). Raises InputError for a missing or malformed one."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8.") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None


def canonical(content: Any) -> str:
    """Canonical JSON: sorted keys, no spaces. Equal content gives equal text, whatever its order."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(content: Any) -> str:
    """sha256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()
