"""Documents: the YAML and JSON files of users, read strictly, and what was written where YAML made something else of it.

YAML is read by its safe part alone. What it would misread in silence is an error here, with the line: a key that
stands twice, an alias that holds itself, a date, a time (a number to base 60), a number that starts with 0.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from svdstory.pipeline.config.strict import InputError

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
ENDINGS = (".yaml", ".yml", ".json")  # in either case
PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "merge", "map", "seq")}
MISREAD = {  # plain words that nobody means as YAML 1.1 reads them
    "a date": re.compile(r"\d{4}-\d\d?-\d\d?([Tt\s].*)?"),
    "a number to base 60": re.compile(r"[-+]?\d[\d_]*(:[0-5]?\d)+(\.[\d_]*)?"),
    "a number to base 8": re.compile(r"[-+]?0[0-7_]+"),
    "a value of its own": re.compile("="),
}
VALUES_AT_MOST = 200_000  # with every alias unfolded


@dataclass(frozen=True)
class Document:
    """A file's content, and its YAML nodes where it is YAML and not empty."""

    content: Any
    lines: tuple[str, ...] = ()
    node: yaml.Node | None = None

    def written(self, loc: tuple) -> str | None:
        """The plain (unquoted) word at `loc`, as it stands in the file; None where there is none."""
        node = self._at(loc)
        return node.value if isinstance(node, yaml.ScalarNode) and not node.style else None

    def comment(self, loc: tuple) -> str:
        """What follows the plain word at `loc` as a comment, from its `#`; empty where nothing does."""
        node = self._at(loc)
        if not isinstance(node, yaml.ScalarNode) or node.style or not self.lines:
            return ""
        rest = self.lines[min(node.end_mark.line, len(self.lines) - 1)][node.end_mark.column :].strip()
        return rest if rest.startswith("#") else ""

    def _at(self, loc: tuple) -> yaml.Node | None:
        """The node at `loc`; parts that lead nowhere (pydantic's names of a union's members) are passed over."""
        node = self.node
        for part in loc:
            if isinstance(node, yaml.MappingNode):
                node = next((value for key, value in node.value if key.value == part), node)
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
        return node


def is_document(path: Path) -> bool:
    """Whether the name says YAML or JSON. macOS's `._x.yaml` beside x.yaml are no such files."""
    return path.suffix.lower() in ENDINGS and not path.name.startswith("._")


def expanded(path: str | Path) -> Path:
    """A path as people write it: `~` is their home. Raises InputError for a home that isn't known."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{path}: no such user's home is known here. Write the whole path.") from None


def read_yaml(path: Path) -> Any:
    """The content of a YAML or JSON file; see `read_document`."""
    return read_document(path).content


def read_document(path: Path) -> Document:
    """Read a YAML file, or a JSON file by its name. Raises InputError for a missing or malformed one."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8.") from None
    return read_text(text, str(path), as_json=path.suffix.lower() == ".json")


def read_text(text: str, where: str, as_json: bool = False) -> Document:
    """Read YAML or JSON. Raises InputError that says `where` it stands for what is malformed."""
    try:
        return _json(where, text) if as_json else _yaml(where, text)
    except InputError:
        raise
    except yaml.YAMLError as error:
        raise InputError(f"{where}: not valid YAML: {error}") from None
    except RecursionError:
        raise InputError(f"{where}: nested too deeply to be read.") from None
    except (ValueError, OverflowError) as error:  # of a value that its own tag or JSON cannot hold
        raise InputError(f"{where}: cannot be read: {error}") from None


def _json(path: str, text: str) -> Document:
    def unique(pairs: list[tuple[str, Any]]) -> dict:
        keys = [key for key, _ in pairs]
        twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
        if twice is not None:
            raise InputError(f"{path}: the key {twice!r} stands twice in one mapping. Keep one.")
        return dict(pairs)

    return Document(json.loads(text, object_pairs_hook=unique))


def _yaml(path: str, text: str) -> Document:
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Document(None)
        _check(node, path, {})
        return Document(loader.construct_document(node), tuple(text.splitlines()), node)
    finally:
        loader.dispose()


def _check(node: yaml.Node, path: str, sizes: dict[int, int | None]) -> int:
    """The number of values that a node unfolds to. Raises InputError for what YAML would misread, or never end."""
    where = f"{path}: line {node.start_mark.line + 1}"
    if id(node) in sizes:
        if sizes[id(node)] is None:
            raise InputError(f"{where}: an alias holds itself. Write out what is meant.")
        return sizes[id(node)]
    sizes[id(node)] = None
    if node.tag not in PLAIN_TAGS and not node.tag.endswith((":timestamp", ":value")):
        raise InputError(
            f"{where}: the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} is not read here. Remove it."
        )
    size = 1
    if isinstance(node, yaml.ScalarNode):
        kind = next((kind for kind, form in MISREAD.items() if form.fullmatch(node.value)), None)
        if kind and not node.style and not node.tag.endswith(":str"):
            raise InputError(
                f'{where}: YAML reads {node.value} as {kind}. If text is meant, put it in quotes: "{node.value}"'
            )
    elif isinstance(node, yaml.MappingNode):
        _check_keys(node, path)
        size += sum(_check(part, path, sizes) for pair in node.value for part in pair)
    else:
        size += sum(_check(part, path, sizes) for part in node.value)
    if size > VALUES_AT_MOST:
        raise InputError(f"{where}: unfolds to more than {VALUES_AT_MOST} values. Write out what is meant.")
    sizes[id(node)] = size
    return size


def _check_keys(node: yaml.MappingNode, path: str) -> None:
    """Raises InputError for a key that is no text, or that stands twice. (`<<` may: it merges.)"""
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.tag.endswith(":merge"):
            continue
        if not key.tag.endswith(":str"):
            said = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
            raise InputError(
                f"{path}: line {line}: got the key {said}, expected text. If it is meant, put it in quotes."
            )
        if key.value in seen:
            raise InputError(
                f"{path}: line {line}: the key {key.value!r} stands twice (before in line {seen[key.value]}). Keep one."
            )
        seen[key.value] = line
