"""The filter bank: fast paths within their tolerance of the exact one, from step to step and from matrix to matrix."""

import pytest
import torch

from svdstory.pipeline.bench.spectral import turning
from svdstory.pipeline.config.methods import SpectralFilter
from svdstory.pipeline.spectral import bank as spectral_bank
from svdstory.pipeline.spectral.bank import SpectralBank
from svdstory.pipeline.spectral.exact import exact_flop, filter_matrices, spectrum
from tests.pipeline.test_spectral import error, real_like

torch.set_num_threads(1)

FAST = [
    SpectralFilter(keep_top=16),
    SpectralFilter(keep_fraction=0.05),
    SpectralFilter(keep_energy=0.95),
    SpectralFilter(keep_fraction=0.05, reweight="log"),
    SpectralFilter(keep_energy=0.95, reweight="log2"),
    SpectralFilter(keep_top=20, power=0.5),
    SpectralFilter(reweight="exp", alpha=0.01),
    SpectralFilter(reweight="exp", alpha=0.001, rescale=False),
    SpectralFilter(reweight="log"),
    SpectralFilter(reweight="log2"),
    SpectralFilter(power=0.5),
    SpectralFilter(power=1.5),
    SpectralFilter(clip=1),
    SpectralFilter(clip=4, rescale=False),
    SpectralFilter(clip=4, keep_top=3),
    SpectralFilter(clip=2, keep_energy=0.9),
]
SPECTRA = {"steep": 1600 * torch.arange(1, 301.0) ** -1.1, "flat": 30 * torch.arange(1, 301.0) ** -0.3}


def words(spec: SpectralFilter) -> str:
    return "-".join(f"{name}-{value}" for name, value in spec.model_dump(exclude_defaults=True).items())


@pytest.fixture(scope="module", params=list(SPECTRA))
def turned(request) -> list[torch.Tensor]:
    """One layer's matrices (2, T, C) over three steps, each a tenth away from the one before."""
    return turning(SPECTRA[request.param], (300, 384), turn=0.07, steps=3, matrices=2)


@pytest.mark.parametrize("spec", FAST, ids=words)
def test_every_filter_holds_its_tolerance_on_steep_and_flat_spectra(turned, spec):
    bank = SpectralBank(spec, None, exact=False)
    for step, a in enumerate(turned, start=1):
        k, v = bank(0, a, a, step=step, heads=1)
        assert v is a
        wanted = filter_matrices(a.double(), spec).matrices
        assert all(error(one, other) < bank.tolerance for one, other in zip(k, wanted))
    assert bank.accepted()


@pytest.mark.parametrize("spec", [FAST[1], FAST[8], FAST[12]], ids=words)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_more_tokens_than_channels_in_either_precision(spec, dtype):
    bank, turned = SpectralBank(spec, None, exact=False), turning(SPECTRA["steep"], (500, 300), turn=0.07, steps=2)
    for step, a in enumerate((a.to(dtype) for a in turned), start=1):
        k, _ = bank(0, a, a, step=step, heads=1)
        assert k.dtype == dtype and error(k, filter_matrices(a.double(), spec).matrices) < bank.tolerance
    assert bank.accepted() and bank.counters()["exact"] == 0


def test_a_pass_whose_matrices_jump_is_made_again_for_those_alone_with_a_better_path():
    """K stays; V is another matrix at the second step, which four rounds cannot follow."""
    (k,), (v,), (other,) = (turning(30 * torch.arange(1, 301.0) ** -p, (300, 384), 0, 1) for p in (0.5, 0.2, 0.15))
    spec, levels = SpectralFilter(keep_top=60), []
    bank = SpectralBank(spec, spec, exact=False)
    for _ in range(3):
        bank(0, k, v, step=1, heads=1)
        got = bank(0, k, other.flip(-1).flip(-2), step=2, heads=1)
        levels.append(list(*bank._levels.values()))
        if bank.accepted():
            break
    assert levels[0] == [0, 0] and levels[-1][0] == 0 and levels[-1][1] > 0
    assert error(got[1], filter_matrices(other.flip(-1).flip(-2).double(), spec).matrices) < bank.tolerance
    assert bank.counters()["repeated"] == len(levels) - 1 <= 2


def test_keys_with_a_short_spectrum_stay_fast_beside_values_that_go_the_exact_way():
    (k,), (v,) = (turning(s, (300, 384), 0, 1, matrices=2) for s in SPECTRA.values())
    spec = SpectralFilter(keep_energy=0.95)
    bank = SpectralBank(spec, spec, exact=False)
    for step in (1, 2, 3):
        got = bank(0, k, v, step=step, heads=1)
        assert all(error(x, filter_matrices(a, spec).matrices) < bank.tolerance for x, a in zip(got, (k, v)))
    assert bank.counters() == {
        "matrices": 12,
        "exact": 6,
        "exact_gflop": round(6 * exact_flop(300, 384) / 1e9),
        "fallbacks": 6,
        "untouched": 0,
        "repeated": 0,
    }


def test_a_tolerance_that_nothing_holds_costs_three_passes_and_the_exact_path_once():
    (a,), spec = turning(SPECTRA["flat"], (300, 384), 0, 1), SpectralFilter(keep_top=16)
    bank, passes = SpectralBank(spec, None, exact=False, tolerance=1e-12), 0
    while passes < 9:
        k, _ = bank(0, a, a, step=1, heads=1)
        passes += 1
        if bank.accepted():
            break
    assert passes == 3 and torch.equal(k, filter_matrices(a, spec).matrices)
    assert bank.counters()["exact_gflop"] == round(exact_flop(300, 384) / 1e9)


def test_a_spectrum_beyond_the_fit_takes_the_polynomial_at_its_first_step():
    a = turning(20 * SPECTRA["steep"], (300, 384), 0, 1)[0]
    spec = SpectralFilter(reweight="log")
    bank = SpectralBank(spec, None, exact=False)
    k, _ = bank(0, a, a, step=1, heads=1)
    assert list(*bank._levels.values())[0] >= 1
    assert error(k, filter_matrices(a.double(), spec).matrices) < bank.tolerance and bank.accepted()


@pytest.mark.parametrize("gap", [3e-4, 3e-3])
@pytest.mark.parametrize("spec", [SpectralFilter(keep_top=20), SpectralFilter(keep_top=20, reweight="log")], ids=words)
def test_a_cut_between_two_close_singular_values_holds_the_tolerance(spec, gap):
    sigma = 1000 / torch.arange(1, 321.0) ** 0.9
    sigma[20] = sigma[19] * (1 - gap)
    bank = SpectralBank(spec, None, exact=False)
    for step, a in enumerate(turning(sigma, (320, 384), turn=0.07, steps=3), start=1):
        k, _ = bank(0, a, a, step=step, heads=1)
        assert error(k, filter_matrices(a.double(), spec).matrices) < bank.tolerance
    assert bank.accepted()


def test_a_tie_at_the_cut_is_not_accepted():
    sigma = 1000 / torch.arange(1, 321.0) ** 0.9
    sigma[20] = sigma[19]
    (a,) = turning(sigma, (320, 384), turn=0, steps=1)
    bank = SpectralBank(SpectralFilter(keep_top=20), None, exact=False)
    bank(0, a, a, step=1, heads=1)
    assert not bank.accepted()


@pytest.mark.parametrize("short", [1e-7, -1e-7, 1e-6])
def test_an_energy_that_is_nearly_reached_is_decided_as_by_the_exact_path(short):
    sigma = 1000 / torch.arange(1, 321.0) ** 0.9
    reached = sigma.double().square().cumsum(0)[14] / sigma.double().square().sum()
    spec = SpectralFilter(keep_energy=float(reached) + short)
    bank = SpectralBank(spec, None, exact=False)
    for step, a in enumerate(turning(sigma, (320, 384), turn=0.07, steps=2), start=1):
        k, _ = bank(0, a, a, step=step, heads=1)
        assert error(k, filter_matrices(a.double(), spec).matrices) < bank.tolerance


@pytest.mark.parametrize("spec", [SpectralFilter(keep_fraction=0.05), SpectralFilter(reweight="log")], ids=words)
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("exact", [True, False])
def test_inf_and_nan_are_named(spec, bad, exact):
    bank, broken = SpectralBank(spec, None, exact=exact), torch.randn(2, 272, 300)
    broken[0, 3, 4] = bad
    with pytest.raises(FloatingPointError, match="inf or nan"):
        bank(0, broken, broken, step=1, heads=1)
        bank.accepted()


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    "filled, switch",
    [(dict(reweight="exp"), "alpha"), (dict(keep_top=8, reweight="exp"), "alpha"), (dict(), "power")],
    ids=["exp", "truncated exp", "power"],
)
def test_an_overflow_names_the_largest_value_that_would_do_and_that_does(exact, filled, switch):
    a = real_like(1, 300, 320).half()

    def filtered(value: float) -> torch.Tensor:
        bank = SpectralBank(SpectralFilter(**filled, **{switch: value}, rescale=False), None, exact=exact)
        k, _ = bank(0, a, a, step=1, heads=1)
        assert bank.accepted()
        return k

    with pytest.raises(FloatingPointError, match=f"{switch} 3.0 and rescale: false overflowed: up to") as told:
        filtered(3.0)
    most = float(str(told.value).split("up to ")[1].split()[0])
    assert filtered(0.99 * most).isfinite().all()
    assert 0.5 < most / (0.0023 if switch == "alpha" else 1.5) < 1.1


def test_small_matrices_take_the_exact_path():
    a = real_like(2, spectral_bank.SMALLEST - 1, 300).float()
    bank = SpectralBank(SpectralFilter(keep_top=5), None, exact=False)
    assert torch.equal(bank(0, a, a, step=1, heads=1)[0], filter_matrices(a, SpectralFilter(keep_top=5)).matrices)
    assert bank.counters()["fallbacks"] == 0 and bank.counters()["exact"] == 2


def test_keys_and_values_have_their_own_filters():
    k, v = real_like(1, 300, 320).float(), real_like(1, 300, 320, seed=1).float()
    top, clip = SpectralFilter(keep_top=3), SpectralFilter(clip=2, keep_top=9)
    got = SpectralBank(top, clip, exact=False)(0, k, v, step=1, heads=1)
    for x, a, spec in zip(got, (k, v), (top, clip)):
        assert error(x, filter_matrices(a, spec).matrices) < 1e-5


@pytest.mark.parametrize(
    "spec", [SpectralFilter(keep_top=5), SpectralFilter(clip=2), SpectralFilter(reweight="log")], ids=words
)
def test_per_head_filters_each_head_by_itself_in_one_batch(spec):
    a = real_like(2, 96, 64).float()
    by_head = SpectralFilter(**spec.model_dump(exclude_defaults=True), granularity="head")
    bank = SpectralBank(by_head, None, exact=False)
    k, _ = bank(0, a, a, step=1, heads=4)
    for head in range(4):
        own = slice(16 * head, 16 * head + 16)
        assert error(k[..., own], filter_matrices(a[..., own], spec).matrices) < 1e-4
    if spec.keep_top:
        assert (spectrum(k[..., :16])[:, 5:] < 1e-3).all()
    assert bank.counters()["exact"] == (8 if spec.reweight else 0)


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


@pytest.mark.parametrize(
    "spec", [SpectralFilter(keep_top=48), SpectralFilter(keep_fraction=1.0), SpectralFilter(keep_energy=1.0)], ids=words
)
def test_a_filter_that_keeps_everything_does_nothing(spec):
    a = torch.randn(2, 80, 48)
    assert SpectralBank(spec, None, exact=False)(0, a, a, step=1, heads=1)[0] is a


@pytest.mark.parametrize(
    "spec", [SpectralFilter(keep_top=8, reweight="log"), SpectralFilter(reweight="log")], ids=words
)
def test_a_spectrum_below_one_is_untouched_and_counted_once_a_step_of_every_pass(spec):
    a = real_like(1, 320, 300).float() / 2000
    bank = SpectralBank(spec, None, exact=False)
    while True:
        k = [bank(0, a, a, step=step, heads=1)[0] for step in (1, 2)]
        if bank.accepted():
            break
    assert torch.equal(k[0], a) and torch.equal(k[1], a)
    assert bank.counters()["untouched"] == bank.counters()["matrices"]


def test_products_are_in_full_float32_and_the_callers_choice_is_put_back(monkeypatch):
    seen, a = [], real_like(1, 300, 320).float()
    original = spectral_bank.fast_filter
    monkeypatch.setattr(
        spectral_bank,
        "fast_filter",
        lambda *given, **named: seen.append(torch.get_float32_matmul_precision()) or original(*given, **named),
    )
    torch.set_float32_matmul_precision("high")
    try:
        SpectralBank(SpectralFilter(keep_top=3), None, exact=False)(0, a, a, step=1, heads=1)
        assert seen == ["highest"] and torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
