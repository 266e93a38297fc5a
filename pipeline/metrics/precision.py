"""Numbers that do not depend on the card: float32, where newer ones would round convolutions to TF32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Inference without TF32; the settings are put back. Also a decorator."""
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
