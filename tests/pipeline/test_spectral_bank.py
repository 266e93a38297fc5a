"""The filter bank: fast paths within their tolerance of the exact one, from step to step."""

import pytest
import torch

from svdstory.pipeline.bench.spectral import turning
from svdstory.pipeline.config.methods import SpectralFilter
from svdstory.pipeline.spectral import bank as spectral_bank
from svdstory.pipeline.spectral import fast as spectral_fast
from svdstory.pipeline.spectral.bank import SpectralBank
from svdstory.pipeline.spectral.exact import filter_matrices, spectrum
from svdstory.pipeline.spectral.subspace import Leading, Wanted, find, random_start
from tests.pipeline.test_spectral import error, real_like

torch.set_num_threads(1)

TRUNCATIONS = [
    SpectralFilter(keep_top=16),
    SpectralFilter(keep_fraction=0.05),
    SpectralFilter(keep_energy=0.95),
    SpectralFilter(keep_fraction=0.05, reweight="log"),
    SpectralFilter(keep_energy=0.95, reweight="log2"),
    SpectralFilter(reweight="exp", alpha=0.01),
]


@pytest.mark.parametrize("spec", TRUNCATIONS, ids=str)
def test_truncation_stays_within_its_tolerance_without_an_exact_decomposition(steps, spec):
    bank = SpectralBank(spec, None, exact=False, tolerance=1e-3)
    for step, a in enumerate(steps, start=1):
        k, v = bank("layer", a, a, step=step, heads=1)
        assert v is a
        assert error(k, filter_matrices(a, spec).matrices) < 1.5e-3
    assert bank.counters() == {"matrices": 6, "exact": 0, "fallbacks": 0, "untouched": 0}


@pytest.mark.parametrize(
    "spec", [*TRUNCATIONS[:4], SpectralFilter(keep_energy=0.4), SpectralFilter(keep_energy=0.6)], ids=str
)
@pytest.mark.parametrize("power", [0.1, 0.25, 1.0])
@pytest.mark.parametrize("drift", [0.3, 0.02])
def test_truncation_of_any_spectrum_holds_its_tolerance_or_falls_back(power, drift, spec):
    def one(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        u, v = (torch.linalg.qr(torch.randn(side, 512, generator=generator))[0] for side in (512, 640))
        return ((u * (100 * torch.arange(1, 513.0) ** -power)) @ v.mT)[None]

    bank, a = SpectralBank(spec, None, exact=False), one(0)
    for step in (1, 2):
        k, _ = bank(0, a, a, step=step, heads=1)
        assert error(k, filter_matrices(a.double(), spec).matrices) < bank.tolerance
        a = (1 - drift**2) ** 0.5 * a + drift * one(step)


@pytest.mark.parametrize("gap", [3e-4, 1e-3, 3e-3])
@pytest.mark.parametrize("spec", [SpectralFilter(keep_top=20), SpectralFilter(keep_top=20, reweight="log")], ids=str)
def test_a_cut_between_two_close_singular_values_holds_the_tolerance(spec, gap):
    """Vectors that are good enough but for their neighbour across the cut aren't good enough."""
    sigma = 1000 / torch.arange(1, 321.0) ** 0.9
    sigma[20] = sigma[19] * (1 - gap)
    bank = SpectralBank(spec, None, exact=False)
    for step, a in enumerate(turning(sigma, (320, 384), turn=0.07, steps=4), start=1):
        k, _ = bank(0, a, a, step=step, heads=1)
        assert error(k, filter_matrices(a.double(), spec).matrices) < bank.tolerance
    assert bank.counters()["fallbacks"] == 0


@pytest.mark.parametrize("short", [1e-7, -1e-7, 1e-6])
def test_an_energy_that_is_nearly_reached_is_decided_as_by_the_exact_path(short):
    sigma = 1000 / torch.arange(1, 321.0) ** 0.9
    reached = sigma.double().square().cumsum(0)[14] / sigma.double().square().sum()
    spec = SpectralFilter(keep_energy=float(reached) + short)
    bank = SpectralBank(spec, None, exact=False)
    for step, a in enumerate(turning(sigma, (320, 384), turn=0.07, steps=4), start=1):
        k, _ = bank(0, a, a, step=step, heads=1)
        assert error(k, filter_matrices(a.double(), spec).matrices) < bank.tolerance


def test_a_flat_spectrum_is_truncated_without_a_fallback():
    a = torch.randn(2, 300, 300, generator=torch.Generator().manual_seed(0))
    bank = SpectralBank(SpectralFilter(keep_top=16), None, exact=False)
    bank(0, a, a, step=1, heads=1)
    assert bank.counters()["fallbacks"] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", ["log", "log2"])
def test_log_of_the_whole_spectrum_takes_no_exact_path(steps, name, dtype):
    spec = SpectralFilter(reweight=name)
    bank = SpectralBank(spec, None, exact=False)
    for step, a in enumerate(steps, start=1):
        k, _ = bank(0, a.to(dtype), a, step=step, heads=1)
        assert k.dtype == dtype
        assert error(k, filter_matrices(a.to(dtype).double(), spec).matrices) < 1e-3
    assert bank.counters() == {"matrices": 6, "exact": 0, "fallbacks": 0, "untouched": 0}


def test_log_within_less_than_float32_can_takes_the_exact_path_and_counts_it(steps):
    bank = SpectralBank(SpectralFilter(reweight="log"), None, exact=False, tolerance=1e-5)
    bank(0, steps[0], steps[0], step=1, heads=1)
    assert bank.counters() == {"matrices": 2, "exact": 2, "fallbacks": 2, "untouched": 0}


@pytest.mark.parametrize("spec", [SpectralFilter(keep_fraction=0.05), SpectralFilter(reweight="log")], ids=str)
def test_threads_change_no_bit_and_leave_the_caller_its_own(steps, spec):
    def filtered() -> list[torch.Tensor]:
        bank = SpectralBank(spec, spec, exact=False)
        return [part for step, a in enumerate(steps, start=1) for part in bank(0, a, 2 * a, step=step, heads=1)]

    alone = filtered()
    torch.set_num_threads(2)
    try:
        together = filtered()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(one, two) for one, two in zip(alone, together, strict=True))


def test_a_spectrum_without_an_end_falls_back_to_the_exact_path_and_counts_it():
    a = torch.randn(2, 300, 300, generator=torch.Generator().manual_seed(0))  # no leading subspace to speak of
    spec = SpectralFilter(keep_energy=0.95)
    bank = SpectralBank(None, spec, exact=False)
    _, v = bank(0, a, a, step=1, heads=1)
    assert torch.equal(v, filter_matrices(a, spec).matrices)
    assert bank.counters() == {"matrices": 2, "exact": 2, "fallbacks": 2, "untouched": 0}


@pytest.mark.parametrize("spec", [SpectralFilter(keep_fraction=0.05), SpectralFilter(reweight="log")], ids=str)
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("step", [1, 2])
def test_inf_and_nan_are_named_on_the_fast_path_too(steps, spec, bad, step):
    bank, broken = SpectralBank(spec, None, exact=False), steps[1].clone()
    broken[0, 3, 4] = bad
    if step == 2:
        bank(0, steps[0], steps[0], step=1, heads=1)
    with pytest.raises(FloatingPointError, match="inf or nan"):
        bank(0, broken, broken, step=step, heads=1)


def test_exact_means_exact_and_small_matrices_always_are(steps):
    spec = SpectralFilter(keep_fraction=0.05)
    want = filter_matrices(steps[0], spec).matrices
    assert torch.equal(SpectralBank(spec, spec, exact=True)(0, steps[0], steps[0], step=1, heads=1)[1], want)
    small = real_like(2, 64, 48).float()
    bank = SpectralBank(spec, None, exact=False)
    assert torch.equal(bank(0, small, small, step=1, heads=1)[0], filter_matrices(small, spec).matrices)


def test_keys_and_values_have_their_own_filters(steps):
    k, v = steps[:2]
    top, energy = SpectralFilter(keep_top=3), SpectralFilter(keep_energy=0.99)
    k_hat, v_hat = SpectralBank(top, energy, exact=True)(0, k, v, step=1, heads=1)
    assert torch.equal(k_hat, filter_matrices(k, top).matrices)
    assert torch.equal(v_hat, filter_matrices(v, energy).matrices)


def test_one_filter_for_both_gives_what_two_equal_ones_give(steps):
    spec = SpectralFilter(keep_fraction=0.05)
    k_hat, v_hat = SpectralBank(spec, spec, exact=True)(0, steps[0], steps[1], step=1, heads=1)
    assert error(k_hat, filter_matrices(steps[0], spec).matrices) < 1e-6
    assert error(v_hat, filter_matrices(steps[1], spec).matrices) < 1e-6


def test_per_head_filters_each_head_by_itself():
    a = real_like(2, 96, 64).float()
    spec = SpectralFilter(keep_top=5, granularity="head")
    k, _ = SpectralBank(spec, None, exact=False)(0, a, a, step=1, heads=4)
    for head in range(4):
        own = slice(16 * head, 16 * head + 16)
        assert error(k[..., own], filter_matrices(a[..., own], SpectralFilter(keep_top=5)).matrices) < 1e-6
        assert (spectrum(k[..., own])[:, 5:] < 1e-3).all()


def test_every_and_steps_choose_where_the_filter_acts():
    def on(**switches):
        spec = SpectralFilter(keep_top=1, **switches)
        a = real_like(1, 16, 12)
        bank = SpectralBank(spec, None, exact=True)
        return [s for s in range(1, 9) if bank(0, a, a, step=s, heads=1)[0] is not a]

    assert on() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert on(every=3) == [1, 4, 7]
    assert on(steps=(2, 5)) == [2, 3, 4, 5]
    assert on(every=2, steps=(4, 8)) == [4, 6, 8]


def test_a_spectrum_below_one_is_untouched_by_the_fast_path_too():
    a = real_like(1, 320, 300).float() / 2000
    spec = SpectralFilter(keep_top=8, reweight="log")
    bank = SpectralBank(spec, None, exact=False)
    assert torch.equal(bank(0, a, a, step=1, heads=1)[0], a)
    assert bank.counters()["untouched"] == 1


def test_an_untouched_matrix_is_counted_once_a_step():
    a = real_like(1, 320, 300).float() / 2000
    bank = SpectralBank(SpectralFilter(reweight="log"), None, exact=False)
    for step in (1, 2):
        assert torch.equal(bank(0, a, a, step=step, heads=1)[0], a)
        assert bank.counters()["untouched"] == bank.counters()["matrices"] == step


def test_rounds_go_on_to_improve_what_float32_can():
    """Residuals of a later round are rounding in part, which once made the basis less than orthonormal: it stood still."""

    def want(leading: Leading) -> Wanted:
        gain = (torch.arange(leading.sigma.shape[-1]) < 50).double().expand(1, -1)
        share = leading.residual.norm(dim=-2) / leading.sigma[:, :1]
        return Wanted(gain, torch.tensor([50]), torch.tensor([False]), share * gain[:, : share.shape[-1]])

    sigma = 1600 / torch.arange(1, 513.0)
    (a,) = turning(sigma, (512, 576), turn=0, steps=1)
    assert find(a, random_start(a, 64), want, tolerance=5e-6, settled=0) is not None


@pytest.mark.parametrize(
    "estimate, specs, tolerance, told",
    [
        ("truncation_errors", TRUNCATIONS[:5], 1e-3, 2e-5),
        ("_coupling_errors", [SpectralFilter(reweight=name) for name in ("log", "log2")], 0.1, 1e-4),
    ],
    ids=["truncation", "coupling"],
)
def test_an_estimate_is_not_below_the_error(estimate, specs, tolerance, told, monkeypatch):
    """Of errors over `told`, which are more than float32's. The last round's estimate is the one that was accepted."""
    computed, seen, ratios = getattr(spectral_fast, estimate), [], []
    monkeypatch.setattr(spectral_bank, "cheapest", lambda *_, most: (None, torch.inf))  # only leading vectors err
    monkeypatch.setattr(spectral_fast, estimate, lambda *given: seen.append(computed(*given)) or seen[-1])
    for power in (0.5, 1.0, 1.5):
        matrices = turning(1000 / torch.arange(1, 321.0) ** power, (320, 384), turn=0.3, steps=3)
        for spec in specs:
            bank = SpectralBank(spec, None, exact=False, tolerance=tolerance)
            for step, a in enumerate(matrices, start=1):
                k, _ = bank(0, a, a, step=step, heads=1)
                wrong = error(k, filter_matrices(a.double(), spec).matrices)
                if wrong > told:
                    ratios.append(float(seen[-1].norm(dim=-1).max()) / wrong)
    assert len(ratios) >= 3 and min(ratios) > 1
