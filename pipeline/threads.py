"""Independent pieces of work on a CPU's threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

Result = TypeVar("Result")


def one_thread_each(job: Callable[[int], Result], count: int) -> list[Result]:
    """job(0) to job(count - 1), on as many threads as torch has for one operation here, one of them for each."""
    threads = min(torch.get_num_threads(), count)
    if threads == 1:
        return [job(i) for i in range(count)]
    return list(_pool(threads).map(torch.inference_mode()(job), range(count)))


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    # set_num_threads leaves the caller's number alone, but threads that anyone starts later begin with this one
    return ThreadPoolExecutor(threads, "spectral filter", torch.set_num_threads, (1,))
