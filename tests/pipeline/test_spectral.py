"""The exact spectral filter against a float64 SVD, on spectra like those of SDXL's keys and values."""

import pytest
import torch

from svdstory.pipeline.config.methods import SpectralFilter
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.spectral.exact import decompose, filter_matrices, gains, spectrum
from svdstory.pipeline.spectral.exact import ranks as ranks_of

torch.set_num_threads(1)

SPECS = [
    SpectralFilter(keep_top=1),
    SpectralFilter(keep_top=16),
    SpectralFilter(keep_fraction=0.05),
    SpectralFilter(keep_energy=0.9),
    SpectralFilter(keep_energy=0.99),
    SpectralFilter(reweight="exp", alpha=0.01),
    SpectralFilter(reweight="log"),
    SpectralFilter(reweight="log2"),
    SpectralFilter(keep_fraction=0.05, reweight="log"),
    SpectralFilter(keep_energy=0.95, reweight="log2"),
    SpectralFilter(clip=1),
    SpectralFilter(clip=4, keep_top=3),
    SpectralFilter(clip=2, keep_energy=0.99, rescale=False),
    SpectralFilter(power=0.5),
    SpectralFilter(power=1.5, keep_top=16, rescale=False),
    SpectralFilter(reweight="exp", alpha=0.01, rescale=False),
    SpectralFilter(keep="gavish-donoho"),
    SpectralFilter(keep="effective-rank", power=0.75),
]


def real_like(n: int, tokens: int, channels: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    """(n, tokens, channels) float64 with sigma_1 = 1600, sigma_10 = 200, sigma_100 = 20, sigma_500 = 3."""
    generator = torch.Generator().manual_seed(seed)
    r = min(tokens, channels)
    i = torch.arange(1, r + 1, dtype=torch.float64).log()
    known = torch.tensor([1.0, 10, 100, 500, 1280], dtype=torch.float64).log()
    value = torch.tensor([1600.0, 200, 20, 3, 0.3], dtype=torch.float64).log()
    piece = torch.bucketize(i, known[1:-1])
    slope = (value[1:] - value[:-1]) / (known[1:] - known[:-1])
    sigma = (value[piece] + slope[piece] * (i - known[piece])).exp()

    def draw(rows):
        return torch.linalg.qr(torch.randn(n, rows, r, generator=generator, dtype=torch.float64))[0]

    return scale * (draw(tokens) * sigma) @ draw(channels).mT


def by_svd(a: torch.Tensor, spec: SpectralFilter) -> torch.Tensor:
    """The definition, one matrix at a time, with a float64 SVD and numpy's words for each rule."""
    out = []
    for matrix in a.double():
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        kept = torch.ones_like(s, dtype=torch.bool)
        if spec.keep_top is not None:
            kept[spec.keep_top :] = False
        if spec.keep_fraction is not None:
            kept = s >= torch.quantile(s, 1 - spec.keep_fraction)
        if spec.keep_energy is not None:
            share = (s**2).cumsum(0) / (s**2).sum()
            kept[next((i + 1 for i, e in enumerate(share) if e > spec.keep_energy), len(s)) :] = False
        if spec.keep == "gavish-donoho":
            beta = min(matrix.shape) / max(matrix.shape)
            omega = 0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43
            kept = s > omega * torch.quantile(s, 0.5)
        if spec.keep == "effective-rank":
            share = s / s.sum()
            kept[int(torch.ceil(torch.exp(-(share * share.log()).sum()))) :] = False
        below, s = s[min(spec.clip or 0, len(s) - 1)], s * kept
        f = {
            None: s.clamp_max(below) if spec.clip else s ** (spec.power or 1),
            "log": s.log().clamp_min(0),
            "log2": s.log().clamp_min(0) ** 2,
            "exp": s * torch.exp((spec.alpha or 0) * s),
        }[spec.reweight]
        f = f * (s.norm() / f.norm() if spec.rescale else 1) * kept
        out.append(matrix if f.isnan().any() and spec.reweight in ("log", "log2") else (u * f) @ vh)
    return torch.stack(out)


def ranks(sigma: torch.Tensor, spec: SpectralFilter) -> torch.Tensor:
    return ranks_of(sigma, spec, (sigma.shape[-1],) * 2)


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


@pytest.mark.parametrize("shape", [(96, 64), (64, 96), (64, 64)], ids=["T>C", "T<C", "T=C"])
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: "-".join(map(str, s.model_dump(exclude_none=True).values())))
def test_equals_a_float64_svd(spec, shape):
    a = real_like(3, *shape, scale=0.1)
    assert error(filter_matrices(a, spec).matrices, by_svd(a, spec)) < 1e-11


@pytest.mark.parametrize("spec", [SPECS[2], SPECS[4], SPECS[6], SPECS[7]], ids=str)
def test_equals_a_float64_svd_on_a_real_spectrum_at_sdxl_width(spec):
    a = real_like(1, 1024, 640)
    assert spectrum(a)[0, [0, 9, 99, 499]].tolist() == pytest.approx([1600, 200, 20, 3])
    assert error(filter_matrices(a, spec).matrices, by_svd(a, spec)) < 1e-11


def test_a_float32_gram_matrix_is_visibly_wrong_and_a_float64_one_is_not():
    a = real_like(1, 1024, 640)
    spec = SpectralFilter(reweight="log2")
    want = by_svd(a, spec)
    single = a.float()
    squares, v = torch.linalg.eigh(single.mT @ single)
    sigma = squares.clamp_min(0).sqrt().flip(-1)
    gain, _ = gains(sigma, torch.tensor([640]), spec)
    in_single = single @ (v.flip(-1) * gain[:, None]) @ v.flip(-1).mT
    assert error(in_single, want) > 2e-3  # and 2e-2 for log at 1024 x 1280
    assert error(filter_matrices(single, spec).matrices, want) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_in_is_dtype_out_and_the_error_is_one_rounding(dtype):
    a = real_like(2, 80, 48, scale=0.1).to(dtype)
    spec = SpectralFilter(reweight="log")
    got = filter_matrices(a, spec).matrices
    assert got.dtype == dtype
    assert error(got, by_svd(a, spec)) < max(torch.finfo(dtype).eps, 1e-11)


@pytest.mark.parametrize(
    "spec",
    [
        SpectralFilter(keep_top=48),
        SpectralFilter(keep_top=10_000),
        SpectralFilter(keep_fraction=1.0),
        SpectralFilter(keep_energy=1.0),
        SpectralFilter(keep_energy=0.9999999999),
    ],
    ids=str,
)
def test_a_filter_that_keeps_everything_changes_no_bit(spec):
    a = torch.randn(2, 80, 48, generator=torch.Generator().manual_seed(0)).half()
    assert torch.equal(filter_matrices(a, spec).matrices, a)


def test_fraction_keeps_what_the_interpolated_quantile_keeps():
    generator = torch.Generator().manual_seed(1)
    for r in (2, 3, 11, 64, 101, 640):
        sigma = torch.rand(1, r, generator=generator, dtype=torch.float64).sort(descending=True).values
        for q in (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.7, 0.9, 0.99, 1.0):
            threshold = torch.quantile(sigma[0], 1 - q, interpolation="linear") - 1e-12
            assert ranks(sigma, SpectralFilter(keep_fraction=q)).item() == (sigma >= threshold).sum(), (r, q)
    assert ranks(torch.rand(1, 640).sort(descending=True).values, SpectralFilter(keep_fraction=0.05)).item() == 32
    assert ranks(torch.rand(1, 1024).sort(descending=True).values, SpectralFilter(keep_fraction=0.05)).item() == 52


def test_fraction_keeps_all_that_tie_with_the_threshold():
    sigma = torch.tensor([[5.0, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1]])
    assert ranks(sigma, SpectralFilter(keep_fraction=0.3)).item() == 6


def test_energy_keeps_the_fewest_over_the_share_and_at_least_one():
    sigma = torch.tensor([[2.0, 2, 2, 2], [10, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.float64)
    assert ranks(sigma, SpectralFilter(keep_energy=0.5)).tolist() == [3, 1, 4]  # E(2) = 0.5 is not over 0.5
    assert ranks(sigma, SpectralFilter(keep_energy=1e-9)).tolist() == [1, 1, 4]
    assert ranks(sigma, SpectralFilter(keep_energy=1.5)).tolist() == [4, 4, 4]


def test_reweighting_preserves_the_norm_of_what_is_kept():
    a = real_like(2, 80, 48, scale=0.1)
    kept = filter_matrices(a, SpectralFilter(keep_top=7)).matrices.norm(dim=(1, 2))
    for reweight, alpha in (("exp", 0.02), ("log", None), ("log2", None)):
        spec = SpectralFilter(keep_top=7, reweight=reweight, alpha=alpha)
        assert torch.allclose(filter_matrices(a, spec).matrices.norm(dim=(1, 2)), kept, rtol=1e-10)


def test_exp_of_a_large_spectrum_stays_finite_and_keeps_the_norm():
    a = real_like(1, 80, 48, scale=40)
    got = filter_matrices(a, SpectralFilter(reweight="exp", alpha=1.0)).matrices  # e^64000, written out
    assert torch.isfinite(got).all()
    assert float(got.norm() / a.norm()) == pytest.approx(1)


@pytest.mark.parametrize("spec", [SpectralFilter(reweight="log"), SpectralFilter(keep_top=3, reweight="log2")], ids=str)
def test_a_spectrum_below_one_is_left_as_it_is_and_counted(spec):
    a = torch.cat([real_like(1, 80, 48), real_like(1, 80, 48) / 2000]).float()
    got = filter_matrices(a, spec)
    assert got.untouched.tolist() == [False, True]
    assert torch.equal(got.matrices[1], a[1])
    assert not torch.allclose(got.matrices[0], a[0], rtol=0.1)


def test_zero_matrices_stay_zero():
    for spec in (spec for spec in SPECS if spec.clip != 4 and spec.keep_top != 16):
        assert filter_matrices(torch.zeros(1, 8, 6), spec).matrices.abs().max() == 0


@pytest.mark.parametrize("size", [(8, 6), (400, 272)])
def test_not_finite_input_is_named(size):
    a = torch.randn(1, *size)
    a[0, 3, 3] = float("inf")
    with pytest.raises(FloatingPointError, match="inf or nan"):
        filter_matrices(a, SpectralFilter(keep_top=2))


def test_a_decomposition_that_fails_is_called_not_finite(monkeypatch):
    def gives_up(matrices):
        raise torch.linalg.LinAlgError("it did not converge")

    monkeypatch.setattr(torch.linalg, "eigh", gives_up)
    with pytest.raises(FloatingPointError, match="did not converge"):
        filter_matrices(torch.randn(1, 8, 6), SpectralFilter(keep_top=2))


def test_clip_beyond_the_singular_values_is_refused():
    with pytest.raises(InputError, match="clip 6 of 6 singular values"):
        filter_matrices(torch.randn(1, 8, 6), SpectralFilter(clip=6))


def test_the_hard_threshold_finds_the_rank_below_noise():
    generator = torch.Generator().manual_seed(0)
    signal = 3 * torch.randn(200, 5, generator=generator) @ torch.randn(5, 120, generator=generator)
    noisy = (signal + torch.randn(200, 120, generator=generator))[None]
    assert filter_matrices(noisy, SpectralFilter(keep="gavish-donoho")).kept.item() == 5


def test_the_effective_rank_is_the_number_of_equal_singular_values():
    sigma = torch.tensor([[3.0, 3, 3, 0, 0], [5, 0, 0, 0, 0], [2, 1, 0, 0, 0]], dtype=torch.float64)
    assert ranks(sigma, SpectralFilter(keep="effective-rank")).tolist() == [3, 1, 2]


def test_decompose_gives_orthonormal_vectors_largest_first():
    sigma, vectors = decompose(real_like(2, 80, 48))
    assert (sigma.diff() <= 0).all()
    assert torch.allclose(vectors.mT @ vectors, torch.eye(48, dtype=torch.float64).expand(2, -1, -1), atol=1e-12)
