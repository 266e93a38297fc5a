"""`svdstory bench memory`: peak memory of a full-size SDXL set against images, anchors and micro-batch; and of decoding.

Without a GPU it is counted, not guessed: the sampler runs on the meta device, where tensors have sizes and no content,
and every storage is followed from its making to its end. On a GPU it is what CUDA's allocator says. Both leave out
the CUDA context (about 0.5 GiB), the workspaces of cuDNN and cuSOLVER, and fragmentation.
"""

import weakref
from collections.abc import Callable
from contextlib import contextmanager
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from svdstory.pipeline.bench import full_size
from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.sampling.sampler import sample
from svdstory.pipeline.spectral import bank

GIB = 2**30
STEPS, RUN = 10, 2  # of ten steps the first two: the second blends queries, extends, filters and injects


def bench_memory(
    device: str, side: int = 1024, cases: list[tuple[str, int, int, int | None]] | None = None
) -> list[dict]:
    """Rows: method, images, anchors, micro-batch (None: all at once), peak GiB, and of these the weights.

    Sampling in float16 with the UNet alone; the last row, `decode`, is one picture in float32 with the VAE alone.
    """
    rows = []
    unet = full_size.sdxl_unet(device if device.startswith("cuda") else "meta", torch.float16)
    weights = sum(p.numel() * p.element_size() for p in unet.parameters())
    for name, images, anchors, micro_batch in cases or default_cases():
        method = named(name)
        if method.n_anchors:
            method = Method.model_validate({**method.model_dump(), "n_anchors": anchors})
        peak = weights + activations(unet, method, images, side, micro_batch)
        rows.append(_row(name, images, method.n_anchors, micro_batch, peak, weights))
    del unet
    return [*rows, _row("decode", 1, 0, 1, *decoding(device, side))]


def _row(name: str, images: int, anchors: int, micro_batch: int | None, peak: int, weights: int) -> dict:
    row = {
        "method": name,
        "images": images,
        "anchors": anchors,
        "micro-batch": micro_batch or "all",
        "peak GiB": peak / GIB,
        "weights GiB": weights / GIB,
    }
    print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
    return row


def default_cases() -> list[tuple[str, int, int, int | None]]:
    """Images at fixed micro-batch, micro-batch at fixed images, anchors; the default is all images at once."""
    consistory = [(3, 2, 1), (6, 2, 1), (3, 1, 1), (4, 3, 1), (5, 2, 2), (5, 2, None)]
    return [
        ("sdxl", 1, 0, 1),
        ("sdxl", 5, 0, None),
        *[("consistory", *case) for case in consistory],
        ("consistory-no-query-blending", 5, 2, None),
        ("svd-log-no-injection", 3, 2, 1),
        ("random-reference", 5, 0, None),
    ]


def activations(unet, method: Method, images: int, side: int, micro_batch: int | None) -> int:
    """Peak bytes beyond the weights over the first steps of each pass."""
    device = str(unet.device)
    arguments = (unet, full_size.scheduler(RUN), full_size.conditioning(images, side, device, torch.float16), method)
    settings = dict(seed=0, steps=STEPS, guidance=5.0, latents=full_size.latents(images, side), micro_batch=micro_batch)
    return peak_of(lambda: sample(*arguments, **settings), unet)


@torch.no_grad()
def decoding(device: str, side: int) -> tuple[int, int]:
    """Peak bytes of decoding one picture in float32, and of these the VAE's weights."""
    vae = full_size.sdxl_vae(device if device.startswith("cuda") else "meta")
    weights = sum(p.numel() * p.element_size() for p in vae.parameters())
    latents = full_size.latents(1, side).to(vae.device)
    return weights + peak_of(lambda: vae.decode(latents), vae), weights


def peak_of(work: Callable[[], object], module: torch.nn.Module) -> int:
    """The most bytes that are alive while it works, beyond those that were there before."""
    if module.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with fused_attention(), unread(), Followed(module) as followed:
        work()
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
def unread():
    """Banks that read nothing from the device, in the middle or at the end of a pass: meta tensors hold no numbers."""
    with (
        patch.object(bank.SpectralBank, "accepted", lambda self: True),
        patch.object(bank, "wanted_rank", lambda *_: 0),
    ):
        yield
