"""`svdstory bench memory`: peak memory of a full-size SDXL set against images, anchors and micro-batch.

Without a GPU it is counted, not guessed: the sampler runs on the meta device, where tensors have sizes and no content,
and every storage is followed from its making to its end. On a GPU it is what CUDA's allocator says. Both leave out
the CUDA context (about 0.5 GiB), cuDNN's workspaces and fragmentation.
"""

import weakref
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ..methods import Method, named
from ..sampler import sample
from ..spectral_bank import SpectralBank
from . import full_size

GIB = 2**30


def bench_memory(device: str, side: int = 1024, cases: list[tuple[str, int, int, int | None]] | None = None) -> list[dict]:
    """Rows: method, images, anchors, micro-batch (None: all at once), peak GiB in float16, and of these the weights."""
    rows = []
    unet = full_size.sdxl_unet(device if device.startswith("cuda") else "meta", torch.float16)
    weights = sum(p.numel() * p.element_size() for p in unet.parameters())
    for name, images, anchors, micro_batch in cases or default_cases():
        method = named(name)
        if method.n_anchors:
            method = Method.model_validate({**method.model_dump(), "n_anchors": anchors})
        peak = weights + activations(unet, method, images, side, micro_batch)
        rows.append({"method": name, "images": images, "anchors": method.n_anchors, "micro-batch": micro_batch or "all",
                     "peak GiB": peak / GIB, "weights GiB": weights / GIB})
        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()), flush=True)
    return rows


def default_cases() -> list[tuple[str, int, int, int | None]]:
    """Images at fixed micro-batch, micro-batch at fixed images, anchors; the default is all images at once."""
    consistory = [(3, 2, 1), (10, 2, 1), (5, 1, 1), (5, 3, 1), (5, 2, 2), (5, 2, None)]
    return [("sdxl", 1, 0, 1), ("sdxl", 5, 0, None), *[("consistory", *case) for case in consistory]]


def activations(unet, method: Method, images: int, side: int, micro_batch: int | None) -> int:
    """Peak bytes beyond the weights over two steps, of each pass: the first plain and injected, the second extended."""
    real = unet.device.type == "cuda"
    device = str(unet.device)
    arguments = (unet, full_size.scheduler(), full_size.conditioning(images, side, device, torch.float16), method)
    settings = dict(seed=0, steps=2, guidance=5.0, latents=full_size.latents(images, side), micro_batch=micro_batch)
    if real:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        sample(*arguments, **settings)
        return torch.cuda.max_memory_allocated() - before
    with fused_attention(), unfiltered(), Followed(unet) as followed:
        sample(*arguments, **settings)
    return followed.peak


class Followed(TorchDispatchMode):
    """Adds up the bytes of meta tensors' storages that are alive, but for the module's; `peak` is the most there were."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.now = self.peak = 0
        self._seen = {t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers())}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "meta":
                self._follow(tensor.untyped_storage())
        return out

    def _follow(self, storage) -> None:
        if storage._cdata in self._seen:
            return
        self._seen.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._end, storage._cdata, storage.nbytes())

    def _end(self, identity: int, size: int) -> None:
        self._seen.discard(identity)
        self.now -= size


@contextmanager
def fused_attention():
    """scaled_dot_product_attention that makes its output alone, as the fused kernels do; meta's makes T x T."""
    original = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda q, k, v, **_: torch.empty_like(q)
    try:
        yield
    finally:
        F.scaled_dot_product_attention = original


@contextmanager
def unfiltered():
    """The bank's decisions need numbers; its own memory is `filter_bytes`."""
    original = SpectralBank.__call__
    SpectralBank.__call__ = lambda self, layer, k, v, *, step, heads: (k, v)
    try:
        yield
    finally:
        SpectralBank.__call__ = original
