"""Peak memory of sampling with SDXL in float16, by formula. Imports without torch: `plan` uses it.

Fitted to `svdstory bench memory` (results/benchmarks/memory-*.json), within 10 % of every row there.
"""

from .methods import Method
from .modelspec import ModelSpec

WEIGHTS = 4.78      # GiB, the UNet
BESIDE = 2.4        # text encoders 1.6, VAE 0.2, CUDA context and workspaces 0.6
ROW = 0.16          # one row of a UNet call (an image's one CFG half), at 1024 x 1024 pixels
ANCHOR = 0.41       # one anchor's keys and values of all layers, both halves, kept for a step
JOINED = 0.02       # a row's keys and values joined with one anchor's, in the largest layer
FILTER = 0.5        # working space of the spectral filter


def applies(model: ModelSpec) -> bool:
    """Whether the formula speaks of this model: SDXL's weights, or a user's finetune of them, in float16."""
    return model.dtype == "float16" and model.source in ("hub", "folder")


def peak_gib(method: Method, images: int, size: tuple[int, int], micro_batch: int | None) -> float:
    """Predicted peak in GiB for a set; size: (width, height) in pixels."""
    share, anchors = size[0] * size[1] / 1024**2, method.n_anchors
    others = max(images - anchors, 0)
    rows = 2 * max(anchors, min(others, micro_batch or max(others, 1)))
    references = ANCHOR * anchors + JOINED * anchors * rows
    filtered = FILTER if method.filter_k or method.filter_v else 0.0
    return WEIGHTS + BESIDE + filtered + share * (ROW * rows + references)


def largest_micro_batch(method: Method, images: int, size: tuple[int, int], card_gib: float) -> int | None:
    """The most images per UNet call, besides the anchors, that a card holds; None where not even one fits."""
    fits = [m for m in range(1, max(images - method.n_anchors, 1) + 1)
            if peak_gib(method, images, size, m) <= 0.95 * card_gib]
    return max(fits, default=None)
