"""Peak memory of sampling and decoding with SDXL in float16, by formula. Imports without torch: `plan` uses it.

Fitted to `svdstory bench memory` (results/benchmarks/memory-*.json), within 10 % of every row there.
"""

from typing import Literal

from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.sizes import tiled
from svdstory.pipeline.models.spec import ModelSpec

WEIGHTS = 4.78  # GiB, the UNet
CONTEXT = 0.6  # CUDA's own and its libraries' workspaces: what the allocator does not count
BESIDE = 1.8 + CONTEXT  # text encoders 1.6, VAE 0.2
# At 1024 x 1024 pixels; a row is an image's one CFG half in a UNet call. The spectral filter has no term: it works
# (0.25 an anchor) in layers where the anchors' rows are well below their peak.
ROW = 0.16  # a row's activations
ANCHOR = 0.41  # one anchor's keys and values of all layers, both halves, kept for a step
JOINED = 0.02  # a row's keys and values joined with one reference's, in the largest layer
ALIGNED, ALIGNED_ROW = 0.95, 0.11  # style-aligned: image 0's keys and values of all 70 layers; a row's joined ones
QUERIES = 0.105  # a row's plain queries of all layers, which query blending keeps: gone before the largest layer
DECODING = 3.0  # one picture, in float32
VAE, UPCAST = 0.16, 0.16  # its weights in float16; in float32, beyond float16's
LEAF = 0.055  # the UNet's largest layer: what sequential offload has on the card at once

Offload = Literal["model", "sequential", "group"]


def applies(model: ModelSpec) -> bool:
    """Whether the formula speaks of this model: SDXL's weights, or a user's finetune of them, in float16."""
    return model.dtype == "float16" and model.source in ("hub", "folder", "file") and not model.one_encoder


def peak_gib(
    method: Method, images: int, size: tuple[int, int], micro_batch: int | None, offload: Offload | None = None
) -> float:
    """Predicted peak in GiB for a set, while it samples or decodes; size: (width, height) in pixels.

    offload: of diffusers' ways. Then the UNet and the VAE are never on the card together, and never the text encoders.
    """
    decoding = UPCAST + DECODING * (1.0 if tiled(*size) else share(size))
    sampling = sampling_gib(method, images, size, micro_batch)
    if offload is None:
        return WEIGHTS + BESIDE + max(sampling, decoding)
    return CONTEXT + max(weights_gib(offload) + sampling, VAE + decoding)


def weights_gib(offload: Offload) -> float:
    """Of the UNet, on the card at once: all; one layer; one, and the next that is being fetched."""
    return {"model": WEIGHTS, "sequential": LEAF, "group": 2 * LEAF}[offload]


def sampling_gib(method: Method, images: int, size: tuple[int, int], micro_batch: int | None) -> float:
    """What sampling needs beyond the weights. With random reference a step is one call, whatever the micro-batch."""
    random, anchors = method.reference == "random", method.anchors(images)
    shares = method.extended_attention != "off" or method.storydiffusion
    rows = 2 * max(anchors, min(images - anchors, micro_batch or images))
    kept = ANCHOR * anchors if shares and not random else 0.0
    joined = JOINED * (1 if random else anchors) if shares else 0.0
    if method.style_aligned:
        kept, joined = ALIGNED * (images > anchors), ALIGNED_ROW
    return share(size) * (kept + rows * (ROW + max(joined, QUERIES if method.query_blending else 0.0)))


def share(size: tuple[int, int]) -> float:
    """The area, in that of 1024 x 1024 pixels."""
    return size[0] * size[1] / 1024**2


def largest_micro_batch(
    method: Method, images: int, size: tuple[int, int], card_gib: float, offload: Offload | None = None
) -> int | None:
    """The most images per UNet call, besides the anchors, that a card holds; None where not even one fits.

    With random reference and with full sharing it is all of them or None.
    """
    fits = [
        m
        for m in range(1, max(images - method.n_anchors, 1) + 1)
        if peak_gib(method, images, size, m, offload) <= 0.95 * card_gib
    ]
    return max(fits, default=None)
