"""Pictures to tensors, in threads: PIL decodes, fills and resizes outside the interpreter's lock."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from svdstory.pipeline.config.cores import cores

Item, Result = TypeVar("Item"), TypeVar("Result")


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """[function(item) for item in items], on the cores that this process may use (Slurm may give few), at most 8."""
    with ThreadPoolExecutor(min(8, cores())) as pool:
        return list(pool.map(function, items))
