"""log and log² of the small singular values: decompositions, fitted recurrences, and the choice between them."""

import pytest
import torch

from svdstory.pipeline.bench.spectral_fit import Fit, normalised, split
from svdstory.pipeline.config.methods import SpectralFilter
from svdstory.pipeline.spectral import bank as spectral_bank
from svdstory.pipeline.spectral import fast as spectral_fast
from svdstory.pipeline.spectral import tail as spectral_tail
from svdstory.pipeline.spectral.bank import SpectralBank
from svdstory.pipeline.spectral.exact import filter_matrices, spectrum
from svdstory.pipeline.spectral.fast import reweight
from svdstory.pipeline.spectral.subspace import random_start
from svdstory.pipeline.spectral.tail import (
    DECOMPOSED_WITHIN,
    Recurrence,
    _chain,
    by_decomposition,
    by_products,
    inverse,
    misfit,
    recurrences,
)
from tests.pipeline.test_spectral import error

torch.set_num_threads(1)


@pytest.mark.parametrize("name", ["log", "log2"])
def test_log_of_the_whole_spectrum_is_close_to_exact(steps, name, monkeypatch):
    monkeypatch.setattr(spectral_fast, "ROWS", 150)  # 400 tokens in three parts
    spec = SpectralFilter(reweight=name)
    fitted = [(by_products(spec, by), 1e-3) for by in recurrences(name)]
    for tail, within in [(by_decomposition(spec), DECOMPOSED_WITHIN), *fitted]:
        start = random_start(steps[0], 48)
        for a in steps[:2]:
            filtered = torch.empty_like(a)
            start = reweight(a, spec, tail, start, 2e-5, filtered).start
            assert error(filtered, filter_matrices(a, spec).matrices) < within


@pytest.mark.parametrize("name", ["log", "log2"])
def test_half_precision_is_rounded_once(steps, name):
    spec = SpectralFilter(reweight=name)
    half, single = steps[0].half(), steps[0].half().float()
    filtered = [torch.empty_like(a) for a in (half, single)]
    for a, out in zip((half, single), filtered):
        reweight(a, spec, by_products(spec, recurrences(name)[0]), random_start(a, 48), 1e-3, out)
    assert torch.equal(filtered[0], filtered[1].half())


def test_a_recurrence_leaves_its_terms_alone():
    """Here L is Y itself but for a constant."""
    by, y = Recurrence(edge=60, shift=3, levels=[[[2, 1]]], total=[0, 0, 1]), torch.rand(5)
    before = y.clone()
    assert torch.equal(_chain(y, by, torch.mul, torch.reciprocal, diagonal=lambda x: x), 1 / (y + 2))
    assert torch.equal(y, before)


@pytest.mark.parametrize("name", ["log", "log2"])
def test_the_misfit_of_a_recurrence_is_what_it_gets_wrong(steps, name):
    spec, a = SpectralFilter(reweight=name), steps[0]
    exact = filter_matrices(a, spec).matrices
    worse = [Recurrence(**{**vars(by), "total": [by.total[0] + 2e-3, *by.total[1:]]}) for by in recurrences(name)]
    for by in recurrences(name) + worse:
        filtered, wrong = torch.empty_like(a), misfit(spectrum(a), spec, by)
        reweight(a, spec, by_products(spec, by), random_start(a, 48), 2e-5, filtered)
        got = (filtered - exact).norm(dim=(1, 2)) / exact.norm(dim=(1, 2))
        assert ((wrong > 1e-3) == (by in worse)).all() and ((got - wrong).abs() < 3e-5 + 0.1 * wrong).all()


def test_the_cheapest_recurrence_that_fits_both_halves_is_used_which_is_looked_at_again(steps, monkeypatch):
    """First the second of two does, then neither, then the first."""
    wrong, used = iter([(9e-4, 2e-4), (9e-4, 2e-3), (3e-4, 0)]), []

    def misfits(sigma, spec, by):
        if by is recurrences("log2")[0]:
            misfits.now = next(wrong)
        return torch.tensor([1e-5, misfits.now[recurrences("log2").index(by)]])

    monkeypatch.setattr(spectral_tail, "misfit", misfits)
    monkeypatch.setattr(spectral_bank, "AGAIN", 2)
    for name in ("by_products", "by_decomposition"):
        monkeypatch.setattr(
            spectral_bank,
            name,
            lambda *given, way=getattr(spectral_bank, name): (
                used.append(recurrences("log2").index(given[1]) if given[1:] else None) or way(*given)
            ),
        )
    bank = SpectralBank(SpectralFilter(reweight="log2"), None, exact=False)
    for step in range(1, 7):
        bank(0, steps[0], steps[0], step=step, heads=1)
    assert used == [1, 1, None, None, 0, 0]


def test_of_four_matrices_the_first_of_each_half_is_looked_at(steps, monkeypatch):
    looked = []
    monkeypatch.setattr(spectral_bank, "cheapest", lambda sigma, *_, most: looked.append(sigma) or (None, torch.inf))
    bank = SpectralBank(SpectralFilter(reweight="log"), None, exact=False)
    four = torch.cat([steps[0], 2 * steps[0]])
    bank(0, four, four, step=1, heads=1)
    assert torch.equal(looked[0], spectrum(four[::2]))


@pytest.mark.parametrize("n", [1, 2])
def test_an_inverse_in_halves_is_the_inverse_or_nan(n):
    x = torch.randn(n, 900, 1000, generator=torch.Generator().manual_seed(0))
    g = x @ x.mT + 3 * torch.eye(900)
    out = torch.full_like(g, torch.nan)
    assert inverse(g, out=out) is out
    assert torch.allclose(out @ g, torch.eye(900), atol=1e-4)
    g[0, -1, -1] = -1
    assert inverse(g)[0].isnan().any() and not inverse(g)[1:].isnan().any()


def test_an_indefinite_inverse_falls_back_to_the_exact_path(steps, monkeypatch):
    bad = Recurrence(edge=60, shift=3, levels=[[[-1, 0]]], total=[1, 0, 0])
    monkeypatch.setattr(spectral_bank, "cheapest", lambda *_, most: (bad, 1e-5))
    bank = SpectralBank(SpectralFilter(reweight="log"), None, exact=False)
    k, _ = bank(0, steps[0], steps[0], step=1, heads=1)
    assert torch.equal(k, filter_matrices(steps[0], SpectralFilter(reweight="log")).matrices)
    assert bank.counters()["fallbacks"] == 2


@pytest.mark.parametrize("name", ["log", "log2"])
def test_what_the_shipped_recurrences_invert_is_positive(name):
    """For any sigma that may be left, and conditioned well enough for float32."""

    def inverted(x: torch.Tensor, out: None) -> torch.Tensor:
        assert (x > 0).all() and x.max() / x.min() < 3000
        return 1 / x

    for by in recurrences(name):
        squares = torch.linspace(0, by.edge, 10_000, dtype=torch.float64).square()
        _chain(1 - 2 * by.shift / (squares + by.shift), by, torch.mul, inverted, diagonal=lambda x: x)


def test_a_fit_is_the_same_function_once_it_is_normalised():
    generator, before = torch.Generator().manual_seed(0), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # as the command does
    try:
        fit, levels = Fit("log", 60, generator), "IPIP"
        p = torch.cat([torch.ones(1), torch.randn(2 + 6 + 4 + 10 + 6, generator=generator)])
        p[1:3], p[9:13] = torch.tensor([2, -0.3]), torch.tensor([3, 0.1, -0.1, 0.1])  # inverses of something positive
        by = Recurrence(edge=60, **normalised(p, levels))
        y = 1 - 2 * by.shift / (fit.sigma.square() + by.shift)
        found = _chain(y, by, torch.mul, torch.reciprocal, diagonal=lambda x: x)
        wanted = split(p, levels)[2] @ fit.terms(p, levels)[:, : len(y)]
    finally:
        torch.set_default_dtype(before)
    assert by.levels[0][0][1] == -1 and all(1 in side for level in by.levels[1:] for side in level)
    assert torch.allclose(found, wanted, rtol=1e-10)
