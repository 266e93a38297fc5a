"""Float32 matrix products, on a CPU by oneDNN.

torch takes MKL for them, which leaves half of an AMD processor's speed alone: on one EPYC core with AVX-512, 1024³ takes
19 ms by MKL (`a @ a`) and 8.7 ms here (OMP_NUM_THREADS=1 python -m timeit -s "import torch; from svdstory.pipeline.products
import product; a = torch.randn(1, 1024, 1024)" "product(a, a)").
"""

import torch
from torch import Tensor

BLOCKS = 4      # of a symmetric product

# What torch.compile makes of a linear layer on a CPU; not in torch's documented interface, so it may be missing.
onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def product(a: Tensor, b: Tensor) -> Tensor:
    """A B of (N, m, k) and (N, k, n), (N, m, n). oneDNN copies a transposed A; B may be either."""
    usual = onednn is None or a.device.type != "cpu" or a.dtype != torch.float32
    if usual or len(a) != 1 or 0 in a.shape or 0 in b.shape:
        return a @ b
    columns = b.mT[0]     # a part of a larger matrix, transposed, takes oneDNN a thousand times as long
    dense = b.is_contiguous() or b.mT.is_contiguous()
    return onednn(a, columns if dense else columns.contiguous(), None, "none", [], "")


def symmetric_product(a: Tensor, b: Tensor) -> Tensor:
    """A B^T of (N, r, k) both, (N, r, r), where that is symmetric: blocks above the diagonal are copied, five eighths of
    the work."""
    r = a.shape[-2]
    out = a.new_empty(*a.shape[:-1], r)
    bounds = [r * i // BLOCKS for i in range(BLOCKS + 1)]
    for low, high in zip(bounds, bounds[1:]):
        out[..., low:high, :high] = product(a[..., low:high, :], b[..., :high, :].mT)
        out[..., :low, low:high] = out[..., low:high, :low].mT
    return out
