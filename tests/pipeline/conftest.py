"""What tests of the spectral filter share."""

import pytest
import torch

from tests.pipeline.test_spectral import real_like


@pytest.fixture(scope="module", params=[(400, 272), (272, 320)], ids=["T>C", "T<C"])
def steps(request) -> list[torch.Tensor]:
    """One layer's matrices (2, T, C) over three steps, each a tenth away from the one before."""
    first, *changes = (real_like(2, *request.param, seed=s, scale=0.4).float() for s in range(3))
    second = 0.995 * first + 0.1 * changes[0]
    return [first, second, 0.995 * second + 0.1 * changes[1]]
