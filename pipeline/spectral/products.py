"""Float32 matrix products, on a CPU by oneDNN.

torch takes MKL for them, which leaves half of an AMD processor's speed alone: on one EPYC core with AVX-512, 1024³ takes
19 ms by MKL (`a @ a`) and 8.7 ms here (OMP_NUM_THREADS=1 python -m timeit -s "import torch; from svdstory.pipeline.products
import product; a = torch.randn(1, 1024, 1024)" "product(a, a)").
"""

import torch
from torch import Tensor

BLOCK = 128  # columns of a symmetric product that a CPU computes at a time

# What torch.compile makes of a linear layer on a CPU; not in torch's documented interface, so it may be missing.
onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def product(a: Tensor, b: Tensor) -> Tensor:
    """A B of (N, m, k) and (N, k, n), (N, m, n). For oneDNN A is copied if it isn't contiguous; B may be transposed."""
    usual = onednn is None or a.device.type != "cpu" or a.dtype != torch.float32
    if usual or len(a) != 1 or 0 in a.shape or 0 in b.shape:
        return a @ b
    columns = b.mT[0]  # a part of a larger matrix, transposed, takes oneDNN a thousand times as long
    dense = b.is_contiguous() or b.mT.is_contiguous()
    return onednn(a[0].contiguous(), columns if dense else columns.contiguous(), None, "none", [], "")[None]


def symmetric_product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """A B^T of (N, r, k) both, (N, r, r), where that is symmetric: on a CPU what is above the diagonal's blocks is copied,
    which leaves little more than half of the work; for a GPU the blocks would be small."""
    if a.device.type != "cpu":
        return torch.matmul(a, b.mT, out=out)
    r = a.shape[-2]
    out = a.new_empty(*a.shape[:-1], r) if out is None else out
    for low in range(0, r, BLOCK):
        high = min(low + BLOCK, r)
        column = product(a[..., low:, :], b[..., low:high, :].mT)
        out[..., low:, low:high] = column
        out[..., low:high, high:] = transposed(column[..., high - low :, :])
    return out


def transposed(a: Tensor) -> Tensor:
    """A^T of (N, m, n): a view, but of one matrix a contiguous copy, which torch makes 1.5 to 10 times as fast if that isn't
    in a batch."""
    return a[0].mT.contiguous()[None] if len(a) == 1 else a.mT
