"""Named methods, as methods.yaml and experiments have them: a base and what is changed of it, sweeps, twins."""

import itertools
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from svdstory.pipeline.config.documents import read_yaml
from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.strict import InputError, Strict, choices, each_once, parse

WITHOUT_INJECTION = "-no-injection"  # after the name of any method that injects: the same without


class MethodEntry(Strict):
    """An entry of methods.yaml or of an experiment: a base, changed switches, and optionally a sweep over some."""

    about: str = ""
    base: str | None = None
    set: dict[str, Any] = {}
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}


@lru_cache
def shipped_entries() -> dict[str, MethodEntry]:
    """The entries of pipeline/config/methods.yaml, by name."""
    content = read_yaml(Path(str(resources.files(__package__))) / "methods.yaml")
    return {name: parse(MethodEntry, entry, f"methods.yaml: {name}") for name, entry in content.items()}


def expand(name: str, entries: dict[str, MethodEntry] | None = None, above: tuple[str, ...] = ()) -> dict[str, Method]:
    """The methods that `name` stands for: itself, or one for each point of its sweep (`name-0.05`).

    `name-no-injection` stands for the same without feature injection. `above`: the methods that are based on it. Raises
    InputError for an unknown name, with the nearest known one, and for a base that comes round.
    """
    entries = shipped_entries() if entries is None else entries
    if name in above:
        raise InputError(f"method {above[0]}: its bases go round: {' -> '.join([*above, name])}. Base one on another.")
    entry = entries.get(name)
    if entry is None and name.endswith(WITHOUT_INJECTION):
        return _without_injection(expand(name.removesuffix(WITHOUT_INJECTION), entries, above))
    if entry is None:
        points = {
            n: m
            for family, e in entries.items()
            if e.sweep and name.startswith(family + "-")
            for n, m in expand(family, entries, above).items()
            if n == name
        }
        if points:
            return points
        known = list(entries)
        raise InputError(f"unknown method {name!r}{choices(name, known)}.")
    switches = _base_switches(name, entries, above)
    _assign_all(switches, entry.set)
    methods = {}
    for point in itertools.product(*entry.sweep.values()):
        swept = _copy(switches)
        _assign_all(swept, dict(zip(entry.sweep, point)))
        label = "-".join([name, *(str(value) for value in point)])
        each_once([*methods, label], "method")
        methods[label] = parse(Method, swept, f"method {label}")
    return methods


def _without_injection(methods: dict[str, Method]) -> dict[str, Method]:
    """Each method's twin. Raises InputError for a method that does not inject."""
    twins = {}
    for name, method in methods.items():
        twin = name + WITHOUT_INJECTION
        if not method.feature_injection:
            raise InputError(f"method {twin}: {name} has no feature injection to go without. Use {name}.")
        twins[twin] = parse(
            Method,
            {**method.model_dump(mode="json", exclude_defaults=True), "feature_injection": False},
            f"method {twin}",
        )
    return twins


def named(name: str) -> Method:
    """The one method of that name. Raises InputError for an unknown name or one that stands for several."""
    methods = expand(name)
    if len(methods) > 1:
        raise InputError(f"{name!r} stands for {len(methods)} methods: choose one of {', '.join(methods)}.")
    return next(iter(methods.values()))


def without_injection(name: str) -> str:
    """The name of a method's twin; of a method that does not inject its own. Raises InputError for an unknown name."""
    return name + WITHOUT_INJECTION if named(name).feature_injection else name


def _base_switches(name: str, entries: dict[str, MethodEntry], above: tuple[str, ...]) -> dict:
    """The switches of the entry's base. Raises InputError for a base of several methods, or one that comes round."""
    base = entries[name].base
    if base is None:
        return {}
    methods = expand(base, entries, (*above, name))
    if len(methods) > 1:
        raise InputError(f"base {base!r} stands for {len(methods)} methods: choose one of {', '.join(methods)}.")
    return _copy(next(iter(methods.values())).model_dump(exclude_defaults=True))


def _copy(switches: dict) -> dict:
    return {k: _copy(v) if isinstance(v, dict) else v for k, v in switches.items()}


def _assign_all(switches: dict, changes: dict[str, Any]) -> None:
    """Apply changes in place. `filter` and `filter.x` stand for both filter_k and filter_v."""
    for path, value in changes.items():
        head, *rest = path.split(".")
        for key in ("filter_k", "filter_v") if head == "filter" else (head,):
            _assign(switches, [key, *rest], value, path)


def _assign(switches: dict, keys: list[str], value: Any, path: str) -> None:
    key, *rest = keys
    if not rest:
        switches[key] = _copy(value) if isinstance(value, dict) else value
        return
    inner = switches.get(key) or {}
    if not isinstance(inner, dict):
        raise InputError(f"{path}: {key} is {inner!r} here and has no {rest[0]!r}. Set {key} as a mapping.")
    switches[key] = dict(inner)
    _assign(switches[key], rest, value, path)
