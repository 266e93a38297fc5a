"""Typed, strict configuration: unknown keys, wrong types and impossible combinations are errors that help."""

import difflib
import hashlib
import json
import operator
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError

FEW = 12  # names that an error may list; of more, the nearest five
INVISIBLE = "\ufeff\u200b"  # a byte order mark and a zero-width space: pasted along, and seen by nobody
NUMBER_LIKE = re.compile(r"[-+]?\d[\d_]*(\.\d*)?([eE][-+]?\d+)?")


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
    """A frozen record that refuses unknown keys, does not guess types and holds no nan or inf."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def unset(self, keys: Iterable[str]) -> dict[str, bool]:
        """Those of the keys that hold their default, as pydantic's `exclude`."""
        return {key: True for key in keys if getattr(self, key) == type(self).model_fields[key].default}


def one_line(text: str) -> str:
    """The text as one line: runs of white space, line separators and control characters are one space."""
    seen = (c for c in text if c not in INVISIBLE)
    return " ".join("".join(" " if unicodedata.category(c) == "Cc" else c for c in seen).split())


def whole_number(value: Any) -> Any:
    """A numpy integer as an int; anything else, truth values too, stays what it is and is refused by its type."""
    try:
        return value if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return value


Text = Annotated[str, AfterValidator(one_line)]  # a person's words
Whole = Annotated[int, BeforeValidator(whole_number)]
Record = TypeVar("Record", bound=BaseModel)
Written = Callable[[tuple], str | None]  # a value's place in a record -> what its file says there, unquoted


def nothing_written(loc: tuple) -> None:
    """Of a record that comes from no file."""


def parse(record: type[Record], content: Any, where: str, written: Written = nothing_written) -> Record:
    """Check `content` (what a YAML or JSON file holds) as a `record`.

    Raises InputError that names `where`, the key, what was got (as `written`, where YAML made something else of it)
    and what is allowed.
    """
    try:
        text = json.dumps(content, ensure_ascii=False)
        text.encode()
        return record.model_validate_json(text)
    except ValidationError as error:
        raise InputError("\n".join(f"{where}: {_explain(e, record, written)}" for e in error.errors())) from None
    except UnicodeEncodeError:
        raise InputError(
            f"{where}: holds half a surrogate pair, which is no text. Write the character itself."
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        said = "it holds itself, or is nested too deeply" if isinstance(error, RecursionError) else error
        raise InputError(f"{where}: {said}; a configuration holds text, numbers, lists and mappings only") from None


def _explain(error: dict, record: type[BaseModel], written: Written) -> str:
    path = [str(part) for part in error["loc"]]
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        allowed = _fields_at(record, error["loc"][:-1])
        return f"unknown key {key!r}{choices(path[-1], allowed, 'Allowed')}."
    if error["type"] == "missing":
        return f"the key {key!r} is missing."
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}: got {_got(error, written)}: {message}{_advice(error)}" if key else message


def _got(error: dict, written: Written) -> str:
    """The value, shortened; and what was written, where that is something else."""
    value, said = repr(error["input"]), written(error["loc"])
    value = value if len(value) <= 200 else value[:200] + " …"
    return value if said is None or said in (value, value.strip("'\"")) else f"{said}, which YAML reads as {value}"


def _advice(error: dict) -> str:
    """What to do where YAML made something else of a word."""
    value, kind = error["input"], error["type"]
    if isinstance(value, str) and kind.startswith(("int", "float")) and NUMBER_LIKE.fullmatch(value):
        return (
            "; YAML takes it for text, as if it stood in quotes: write digits, a point and digits, as 0.001 or 1.0e-3"
        )
    if kind in ("string_type", "literal_error") and (value is None or isinstance(value, (bool, int, float))):
        words = " (YAML takes on, off, yes and no for true and false)" if isinstance(value, bool) else ""
        return f"; if a word is meant, put it in quotes{words}"
    return ""


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


def each_once(names: list, what: str) -> None:
    """Raises InputError that names what stands twice."""
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise InputError(f"a {what} stands twice: {twice[0]!r}. Name each once")


def canonical(content: Any) -> str:
    """Canonical JSON: sorted keys, no spaces. Equal content gives equal text, whatever its order."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(content: Any) -> str:
    """sha256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()
