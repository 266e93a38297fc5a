"""Independent pieces of work on a CPU's threads."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def one_thread_each(job: Callable[[int], Result], count: int) -> list[Result]:
    """job(0) to job(count - 1), on as many threads as torch has for one operation here, one of them for each."""
    threads = min(torch.get_num_threads(), count)
    if threads == 1:
        return [job(i) for i in range(count)]
    return list(_pool(threads).map(torch.inference_mode()(job), range(count)))


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "spectral filter", _one_thread)


def _one_thread() -> None:
    torch.set_num_threads(1)  # the caller's number stays, but threads that anyone starts later begin with this one
    torch.get_num_threads()  # until a thread has asked, it would take over a number that is set elsewhere


_kept = threading.local()


def kept_memory(like: Tensor, count: int) -> list[Tensor | None]:
    """So many tensors like this one, uninitialised: on a CPU those that this thread got before, so their time is over with
    its next call. malloc would return what is freed to the system, and new pages cost two threads a fifth of log's time.

    None, for new ones, on a GPU, where torch keeps what is freed.
    """
    if like.device.type != "cpu":
        return [None] * count
    tensors = _kept.__dict__.setdefault("tensors", {}).setdefault((like.shape, like.dtype), [])
    with torch.inference_mode(False):  # else they could be written to in inference mode alone
        tensors += [torch.empty_like(like) for _ in range(count - len(tensors))]
    return tensors[:count]
