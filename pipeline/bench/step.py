"""`svdstory bench step`: denoising steps of each method on a full-size SDXL UNet, against plain SDXL's."""

from contextlib import contextmanager

import torch

from svdstory.pipeline.bench import full_size
from svdstory.pipeline.bench.record import clock
from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.sampling.sampler import sample
from svdstory.pipeline.spectral.bank import SpectralBank

METHODS = (
    "sdxl",
    "consistory",
    "unmasked-no-injection",  # one pass: what injection costs, `consistory` says
    "svd-fraction-0.05-no-injection",
    "svd-energy-0.95-no-injection",
    "svd-log-no-injection",
    "svd-log2-no-injection",
    "svd-log-fraction-no-injection",
)
STEPS, RUN = 10, 5  # of ten steps the first five are run
BLENDED, INJECTED, EXTENDED = 1, 2, 4  # 1 blends queries, 1 to 3 inject, all from 1 on extend and filter


def bench_step(
    device: str,
    methods: tuple[str, ...] = METHODS,
    images: int = 5,
    side: int | None = None,
    exact: bool = False,
    micro_batch: int | None = None,
) -> list[dict]:
    """Rows: method; seconds of a step that is extended and filtered, and its ratio to plain SDXL's, which is always
    measured; of one that blends queries too, and of one that injects too, where the method does that; the filter's
    share. In the last pass a step that blends injects as well. On a GPU 1024 px in float16, on a CPU 256 px in float32.
    """
    side = side or (1024 if device.startswith("cuda") else 256)
    dtype = torch.float16 if device.startswith("cuda") else torch.float32
    unet = full_size.sdxl_unet(device, dtype)
    rows: list[dict] = []
    for name in ("sdxl", *(name for name in methods if name != "sdxl")):
        row = {"method": name, **some_steps(unet, named(name), device, images, side, exact, micro_batch)}
        rows.append({**row, "ratio": row["step s"] / (rows[0] if rows else row)["step s"]})
        print(
            "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()), flush=True
        )
    return rows


def some_steps(unet, method: Method, device: str, images: int, side: int, exact: bool, micro_batch: int | None) -> dict:
    """Seconds of steps of the last pass. The filter is timed in a run of its own: on a GPU that makes the device wait."""
    arguments = (unet, full_size.scheduler(RUN), full_size.conditioning(images, side, device, unet.dtype), method)
    settings = dict(
        seed=0,
        steps=STEPS,
        guidance=5.0,
        latents=full_size.latents(images, side),
        micro_batch=micro_batch,
        exact_filter=exact,
    )
    ended: dict[tuple[int, int], float] = {}
    result = sample(*arguments, **settings, on_step=lambda at: ended.update({(at.pass_index, at.step): clock(device)}))
    last = max(ended)[0]
    seconds = {step: ended[last, step] - ended[last, step - 1] for step in (BLENDED, INJECTED, EXTENDED)}
    row = {"images": images, "side": side, "step s": seconds[EXTENDED]}
    if method.query_blending:
        row["blended s"] = seconds[BLENDED]
    if method.feature_injection:
        row["injected s"] = seconds[INJECTED]
    if method.filter_k or method.filter_v:
        with timed_filter(device) as spent:
            sample(*arguments, **settings)
        row["filter's share"] = spent[EXTENDED] / seconds[EXTENDED]
    return {**row, "exact": result.counters["exact"], "matrices": result.counters["matrices"]}


@contextmanager
def timed_filter(device: str):
    """Seconds that SpectralBank takes, added up by step."""
    original, spent = SpectralBank.__call__, dict.fromkeys(range(RUN), 0.0)

    def timed(self, layer, k, v, *, step, heads):
        before = clock(device)
        out = original(self, layer, k, v, step=step, heads=heads)
        spent[step] += clock(device) - before
        return out

    SpectralBank.__call__ = timed
    try:
        yield spent
    finally:
        SpectralBank.__call__ = original
