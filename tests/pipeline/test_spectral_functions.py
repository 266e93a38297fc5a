"""Functions of symmetric matrices by products, against their eigenvectors; and what the fast paths ask of a device."""

from unittest.mock import patch

import pytest
import torch

from svdstory.pipeline.bench import full_size
from svdstory.pipeline.bench.peak_memory import fused_attention
from svdstory.pipeline.bench.spectral_fit import Fit, normalised, split
from svdstory.pipeline.config.methods import Method, SpectralFilter
from svdstory.pipeline.sampling.sampler import sample
from svdstory.pipeline.spectral import functions
from svdstory.pipeline.spectral.bank import SpectralBank
from svdstory.pipeline.spectral.functions import Recurrence, interpolant, nodes, recurrences
from svdstory.pipeline.spectral.subspace import largest, projector

torch.set_num_threads(1)


def symmetric(values: torch.Tensor, matrices: int = 2) -> torch.Tensor:
    """(N, r, r) float64 with these eigenvalues (r,)."""
    random = torch.randn(matrices, len(values), len(values), generator=torch.Generator().manual_seed(0)).double()
    basis = torch.linalg.qr(random).Q
    return (basis * values) @ basis.mT


def of(function, m: torch.Tensor) -> torch.Tensor:
    values, basis = torch.linalg.eigh(m)
    return (basis * function(values)[:, None]) @ basis.mT


@pytest.mark.parametrize("degree", [15, 63, 127])
def test_a_polynomial_of_a_matrix_is_that_of_its_eigenvalues(degree):
    y = symmetric(torch.linspace(-1, 1, 40).double())
    c = interpolant(torch.exp(3 * nodes(degree + 1, y.device)) * torch.tensor([[1.0], [2.0]]))  # one for each matrix
    wanted = of(lambda x: torch.exp(3 * x), y) * torch.tensor([1.0, 2.0])[:, None, None]
    assert torch.allclose(functions.polynomial(c, y), wanted, atol=1e-5 if degree == 15 else 1e-10)


def test_square_roots_hold_over_six_decades():
    m = symmetric(torch.logspace(-6, 0, 40).double())
    root, inverse = functions.square_roots(m, torch.ones(2, 1, 1).double())
    assert torch.allclose(root, of(torch.sqrt, m), atol=1e-9)
    assert torch.allclose(inverse @ root, torch.eye(40).double().expand(2, -1, -1), atol=1e-4)


@pytest.mark.parametrize("k", [1, 7, 39])
def test_a_projector_is_onto_the_leading_eigenvectors_and_its_rank_may_differ_by_matrix(k):
    m = symmetric(torch.logspace(0, 6, 40).double())
    x = projector(m, torch.tensor([k, 20]))
    for one, matrix, rank in zip(x, m, (k, 20)):
        vectors = torch.linalg.eigh(matrix).eigenvectors[:, -rank:]
        assert torch.allclose(one, vectors @ vectors.mT, atol=1e-6)


def test_the_largest_eigenvalue_is_told_within_a_fifth():
    values = torch.linspace(1, 50, 40).double()
    assert (1 <= largest(symmetric(values)) / 50).all() and (largest(symmetric(values)) / 50 < 1.2).all()


def test_an_inverse_in_halves_is_the_inverse_or_not_a_number():
    x = torch.randn(2, 900, 1000, generator=torch.Generator().manual_seed(0))
    g = x @ x.mT + 3 * torch.eye(900)
    assert torch.allclose(functions.inverse_in_halves(g) @ g, torch.eye(900).expand(2, -1, -1), atol=1e-4)


def test_a_trace_of_a_function_is_told_within_some_per_cent():
    y = symmetric(torch.linspace(-0.9, 0.9, 400).double())
    found = functions.traces(
        nodes(functions.MOMENTS, y.device).square(), y, functions.signs(400, y.device).double().expand(2, -1, -1)
    )
    wanted = torch.linspace(-0.9, 0.9, 400).double().square().sum()
    assert torch.allclose(found, wanted.expand(2), rtol=0.1)


@pytest.mark.parametrize("name", ["log", "log2"])
def test_a_recurrence_of_a_matrix_is_that_of_its_eigenvalues(name):
    for by in recurrences(name):
        y = symmetric(torch.linspace(-0.99, 0.99, 60).double())
        assert torch.allclose(by.of_matrix(y), of(by.of_numbers, y), atol=1e-9)


@pytest.mark.parametrize("name", ["log", "log2"])
def test_what_the_shipped_recurrences_invert_is_positive(name):
    """For any sigma that may be left, and conditioned well enough for float32."""

    def inverted(x: torch.Tensor) -> torch.Tensor:
        assert (x > 0).all() and x.max() / x.min() < 3000
        return 1 / x

    for by in recurrences(name):
        squares = torch.linspace(0, 60, 10_000, dtype=torch.float64).square()
        y = 1 - 2 * by.shift / (squares + by.shift)
        by._p([torch.ones_like(y), y], torch.mul, inverted)


def test_a_fit_is_the_same_function_once_it_is_normalised():
    generator, before = torch.Generator().manual_seed(0), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # as the command does
    try:
        fit, levels = Fit("log", 60, generator), "IPIP"
        p = torch.cat([torch.ones(1), torch.randn(2 + 6 + 4 + 10 + 6, generator=generator)])
        p[1:3], p[9:13] = torch.tensor([2, -0.3]), torch.tensor([3, 0.1, -0.1, 0.1])  # inverses of something positive
        by = Recurrence(**normalised(p, levels))
        found = by.of_numbers(1 - 2 * by.shift / (fit.sigma.square() + by.shift))
        wanted = split(p, levels)[2] @ fit.terms(p, levels)[:, : len(fit.sigma)]
    finally:
        torch.set_default_dtype(before)
    assert by.levels[0][0][1] == -1 and all(1 in side for level in by.levels[1:] for side in level)
    assert torch.allclose(found, wanted, rtol=1e-10)


@pytest.mark.parametrize(
    "spec",
    [
        SpectralFilter(keep_top=16),
        SpectralFilter(keep_fraction=0.05, reweight="log"),
        SpectralFilter(clip=4),
        SpectralFilter(clip=2, keep_top=64, granularity="head"),
    ],
    ids=str,
)
def test_a_step_at_full_size_reads_nothing_from_the_device(spec, monkeypatch):
    """On the meta device there is nothing to read: .item(), .tolist() and boolean indexing raise."""
    # of the layers that are alike one or two, not ten: 3 x 2 + 3 x 1 of the 36 that are filtered
    monkeypatch.setitem(full_size.SDXL_UNET, "transformer_layers_per_block", (1, 1, 2))
    method = Method(extended_attention="unmasked", n_anchors=2, filter_k=spec, filter_v=spec)
    unet, images, side = full_size.sdxl_unet("meta", torch.float16), 3, 1024
    arguments = (unet, full_size.scheduler(2), full_size.conditioning(images, side, "meta", torch.float16), method)
    with fused_attention(), patch.object(SpectralBank, "accepted", lambda self: True):  # its one reading, at the end
        made = sample(*arguments, seed=0, steps=50, guidance=5.0, latents=full_size.latents(images, side))
    assert made.latents.shape == (images, 4, 128, 128)
    assert made.counters["matrices"] == 9 * 8 * (20 if spec.granularity == "head" else 1) or spec.granularity == "head"
    assert made.counters["exact"] == 0
