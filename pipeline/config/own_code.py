"""Reading a user's function from its file, with the modules beside it that it imports, without running any of it.

What it imports may need a GPU or an hour: the syntax tree alone says whether the function is there and takes what it
will be given.
"""

import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from svdstory.pipeline.config.brought import OwnFunction
from svdstory.pipeline.config.documents import expanded
from svdstory.pipeline.config.strict import InputError, choices

GIVEN = ("seed", "steps", "guidance", "size", "scheduler", "switches", "on_step")  # by name; before them, by place:
CALL = f"(model, prompts, *, {', '.join(GIVEN)})"
LARGEST = 1_000_000  # characters of all files together: a run carries them


def read_function(given: str, near: Path) -> OwnFunction:
    """`my_method.py:generate`, relative to `near` (the experiment's folder), then to the current one.

    Raises InputError for a file that is not there or does not parse, and a function that is not in it or cannot be
    called with CALL.
    """
    path, colon, name = given.rpartition(":")
    if not colon or not path.endswith(".py") or not name.isidentifier():
        raise InputError(f"python: {given!r}: expected a file and a function in it, as my_method.py:generate.")
    places = [near / expanded(path), Path.cwd() / expanded(path)]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise InputError(f"python: {given}: there is no such file in {near} or {Path.cwd()}.")
    check_function(_parsed(file), name, file)
    sources = {str(one.relative_to(file.parent)): _text(one) for one in collect(file)}
    if sum(map(len, sources.values())) > LARGEST:
        raise InputError(
            f"python: {given}: it and what it imports from {file.parent} are {len(sources)} files of more than "
            f"{LARGEST // 1000} kB. Import less; data are read by a path that you give in `set`."
        )
    return OwnFunction(file=file.name, name=name, sources=sources)


def check_function(tree: ast.Module, name: str, file: Path) -> None:
    """Raises InputError unless the file's top level defines the function, and it can be called with CALL."""
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if name not in functions:
        raise InputError(
            f"{file}: defines no function {name!r} at its top level{choices(name, list(functions)) if functions else ''}."
            f" Expected: def {name}{CALL}."
        )
    relative = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level]
    if relative:
        raise InputError(
            f"{file}, line {relative[0]}: a relative import, but the file is no module of a package here. "
            "Import by name what lies beside it: from nets import Net."
        )
    node = functions[name]
    try:
        signature_of(node).bind("model", "prompts", **dict.fromkeys(GIVEN))
    except TypeError as error:
        raise InputError(
            f"{file}, line {node.lineno}: {name}({ast.unparse(node.args)}) cannot be called as it will be: {error}. "
            f"Expected: def {name}{CALL}; **others takes what you don't need."
        ) from None


def signature_of(node: ast.FunctionDef) -> inspect.Signature:
    """The function's parameters, as they are written; defaults count only as being there."""
    a, P = node.args, inspect.Parameter
    by_place = [(arg.arg, P.POSITIONAL_ONLY) for arg in a.posonlyargs]
    by_place += [(arg.arg, P.POSITIONAL_OR_KEYWORD) for arg in a.args]
    without = len(by_place) - len(a.defaults)
    found = [P(n, kind, default=P.empty if i < without else None) for i, (n, kind) in enumerate(by_place)]
    found += [P(a.vararg.arg, P.VAR_POSITIONAL)] if a.vararg else []
    found += [
        P(arg.arg, P.KEYWORD_ONLY, default=P.empty if default is None else None)
        for arg, default in zip(a.kwonlyargs, a.kw_defaults)
    ]
    return inspect.Signature(found + ([P(a.kwarg.arg, P.VAR_KEYWORD)] if a.kwarg else []))


def collect(file: Path) -> list[Path]:
    """The file and all modules beside it that it, or one of them, imports; the standard library is never among them.

    Raises InputError for a module that does not parse.
    """
    root, found, waiting = file.parent, [], [file]
    while waiting:
        one = waiting.pop()
        found.append(one)
        package = one.relative_to(root).parts[:-1]
        for module in imports(_parsed(one), package):
            for path in _modules(root, module):
                if path not in found and path not in waiting:
                    waiting.append(path)
    return sorted(found)


def imports(tree: ast.Module, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The parts of every module's name that the code may import, relative names resolved within `package`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = (*above, *(node.module.split(".") if node.module else ()))
            yield module
            yield from ((*module, alias.name) for alias in node.names)


def _modules(root: Path, name: tuple[str, ...]) -> Iterator[Path]:
    """The files of a module and of the packages that it lies in, those that lie in `root`."""
    if not name or name[0] in sys.stdlib_module_names or name[0] == "svdstory":
        return
    for length in range(1, len(name) + 1):
        place = root.joinpath(*name[:length])
        yield from (path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file())


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as Python: {error}.") from None


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(_text(file), str(file))
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte
        line = f", line {error.lineno}" if getattr(error, "lineno", None) else ""
        raise InputError(f"{file}{line}: is no Python {sys.version_info[0]}.{sys.version_info[1]}: {error}.") from None
