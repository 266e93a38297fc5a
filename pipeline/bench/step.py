"""`svdstory bench step`: a denoising step of each method on a full-size SDXL UNet, against plain SDXL's."""

from contextlib import contextmanager

import torch

from ..methods import named
from ..sampler import sample
from ..spectral_bank import SpectralBank
from . import full_size
from .record import clock

METHODS = ("sdxl", "consistory", "unmasked", "svd-fraction-0.05", "svd-energy-0.95", "svd-log", "svd-log2",
           "svd-log-fraction")


def bench_step(device: str, methods: tuple[str, ...] = METHODS, images: int = 5, side: int | None = None,
               exact: bool = False, micro_batch: int | None = None) -> list[dict]:
    """Rows: method, seconds of its last step (extended, filtered; injected where it injects), ratio to plain SDXL's,
    share of the filter, which filters were exact. On a GPU 1024 px in float16, on a CPU 256 px in float32."""
    side = side or (1024 if device.startswith("cuda") else 256)
    dtype = torch.float16 if device.startswith("cuda") else torch.float32
    unet = full_size.sdxl_unet(device, dtype)
    rows: list[dict] = []
    for name in methods:
        row = {"method": name, **one_step(unet, name, device, images, side, exact, micro_batch)}
        row["ratio"] = row["step s"] / rows[0]["step s"] if rows else 1.0
        rows.append(row)
        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
    return rows


def one_step(unet, name: str, device: str, images: int, side: int, exact: bool, micro_batch: int | None) -> dict:
    """Of three steps the last: the first has no extended attention, the second is a layer's first for the filter.

    The filter is timed in a run of its own, since on a GPU that makes the device wait.
    """
    arguments = (unet, full_size.scheduler(), full_size.conditioning(images, side, device, unet.dtype), named(name))
    settings = dict(seed=0, steps=3, guidance=5.0, latents=full_size.latents(images, side), micro_batch=micro_batch,
                    exact_filter=exact)
    times: list[float] = []
    result = sample(*arguments, **settings, on_step=lambda step: times.append(clock(device)))
    filtered = named(name).filter_k is not None or named(name).filter_v is not None
    share = 0.0
    if filtered:
        spent: dict[int, float] = {}
        with timed_filter(spent, device):
            sample(*arguments, **settings)
        share = spent[2] / (times[-1] - times[-2])
    return {"images": images, "side": side, "step s": times[-1] - times[-2], "filter's share": share,
            "exact": result.counters["exact"], "matrices": result.counters["matrices"]}


@contextmanager
def timed_filter(spent: dict[int, float], device: str):
    """Adds up the seconds that SpectralBank takes, by step."""
    original = SpectralBank.__call__

    def timed(self, layer, k, v, *, step, heads):
        before = clock(device)
        out = original(self, layer, k, v, step=step, heads=heads)
        spent[step] = spent.get(step, 0.0) + clock(device) - before
        return out

    SpectralBank.__call__ = timed
    try:
        yield
    finally:
        SpectralBank.__call__ = original
