"""Matrix products by oneDNN, which is there and used, and gives what torch's own do."""

import pytest
import torch

from svdstory.pipeline.spectral import products
from svdstory.pipeline.spectral.products import product, symmetric_product, transposed


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("n, m, k, columns", [(1, 300, 400, 24), (1, 24, 300, 400), (1, 24, 300, 0), (2, 30, 40, 20)])
def test_a_product_by_onednn_is_the_product(n, m, k, columns, turned, there, monkeypatch):
    """Also of parts of larger matrices, for which it has no fast kernel, and without it."""

    def part(rows: int, columns: int) -> torch.Tensor:
        if turned:
            return torch.randn(n, columns + 5, rows + 3, generator=generator)[:, :columns, :rows].mT
        return torch.randn(n, rows + 3, columns + 5, generator=generator)[:, :rows, :columns]

    generator, calls, onednn = torch.Generator().manual_seed(0), [], products.onednn
    monkeypatch.setattr(products, "onednn", (lambda *given: calls.append(given) or onednn(*given)) if there else None)
    a, b = part(m, k), part(k, columns)
    assert torch.allclose(product(a, b), a @ b, atol=1e-4)
    assert len(calls) == (there and n == 1 and columns > 0)


@pytest.mark.parametrize("n", [1, 2])
def test_a_symmetric_product_is_the_product(n):
    x = torch.randn(n, 300, 300, generator=torch.Generator().manual_seed(0)) / 300**0.5
    a = x + x.mT
    b = a @ a + a
    out = torch.full_like(a, torch.nan)
    assert symmetric_product(a, b, out=out) is out
    assert torch.allclose(out, a @ b, atol=1e-4) and torch.equal(symmetric_product(a, b), out)


@pytest.mark.parametrize("n", [1, 2])
def test_a_transposed_part_is_its_transpose(n):
    a = torch.randn(n, 70, 90, generator=torch.Generator().manual_seed(0))[:, 5:, 7:]
    assert torch.equal(transposed(a), a.mT)
