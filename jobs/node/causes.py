"""Why something failed on a node, in the store's words; what is recorded of it."""

import errno
import gc
import re
import sys
import traceback

import torch

from svdstory.jobs.study.store import Attempt, Store
from svdstory.pipeline.decoding import NotFinite

FATAL = ("disk full", "bad node")  # causes after which the next unit would fail too
# PyTorch's own error has a class; CUDA, its libraries (cuBLAS, cuSOLVER, cuDNN) and the CPU's allocator have words
OUT_OF_MEMORY = re.compile("out of memory|not enough memory|cannot allocate memory|ALLOC(ATION)?_FAILED", re.IGNORECASE)


class SubjectFailed(Exception):
    """The unit's subject could not be made; `cause` in the store's words."""

    def __init__(self, cause: str):
        super().__init__(f"subject failed: {cause}")
        self.cause = cause


def cause_of(error: BaseException) -> str:
    """The failure's cause, in the store's words."""
    if isinstance(error, SubjectFailed):
        return str(error)
    if isinstance(error, (NotFinite, FloatingPointError)):  # the latter is the spectral filter's
        return "not finite"
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, (RuntimeError, OSError)) and OUT_OF_MEMORY.search(str(error))
    ):
        return "out of memory"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return "disk full"
    if isinstance(error, RuntimeError) and "CUDA error" in str(error):
        return "bad node"
    return "bug"


def record(store: Store, key: str, cause: str, attempt: Attempt) -> None:
    try:
        store.record_failure(key, cause, traceback.format_exc(), attempt)
    except OSError as error:  # a full disk takes no record either: say it where the log goes
        print(f"{key}: failed ({cause}), and its record could not be written: {error}", file=sys.stderr)


def free_memory() -> None:
    """Give back what ended work held, on the card too: a model that nobody refers to any more."""
    gc.collect()  # pipelines hold references in circles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
