"""The benchmarks at toy size: they run, count right and record what they ran on."""

import copy
import json

import pytest
import torch

from svdstory.pipeline.bench import drift, full_size, peak_memory, record, spectral, step
from svdstory.pipeline.config.methods import SpectralFilter
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.sampling.denoiser import Conditioning
from svdstory.pipeline.sampling.families.consistory import ConsiStory
from svdstory.pipeline.sampling.family import Pass
from svdstory.pipeline.spectral import bank
from svdstory.pipeline.spectral.exact import spectrum
from tests.pipeline import reference

torch.set_num_threads(1)


def test_a_record_names_versions_device_and_rows_and_has_a_table(tmp_path, capsys):
    path = record.save("toy", [{"what": "a", "seconds": 0.123456}], "cpu", tmp_path, "A note.")
    saved = json.loads(path.read_text())
    assert saved["rows"] == [{"what": "a", "seconds": 0.123456}]
    assert torch.__version__.startswith(saved["environment"]["torch"])
    assert "| a    | 0.123   |" in path.with_suffix(".md").read_text()
    assert "0.123" in capsys.readouterr().out


def test_both_protocols_give_the_same_matrices(monkeypatch):
    monkeypatch.setattr(spectral, "MATRICES", 2)
    steps = spectral.drifting((300, 280), 0.1, 2, "cpu")
    spec = SpectralFilter(keep_fraction=0.05)
    row = spectral.side_by_side(steps, spec, "cpu")
    assert row["error"] < 1e-3 and row["published error"] < 1e-4


def test_drift_is_what_it_says(monkeypatch):
    monkeypatch.setattr(spectral, "MATRICES", 1)
    first, second = spectral.drifting((300, 280), 0.1, 2, "cpu")
    assert spectral.relative(second, first.double()) == pytest.approx(0.1, rel=0.1)
    assert spectral.relative(spectrum(second), spectrum(first)) < 1e-5


def test_moved_tells_a_turn_from_a_growth():
    """Sides that turn by 0.1 / √2 each leave the singular values as they are; twice the matrix turns nothing."""
    first, second = spectral.drifting((300, 280), 0.1, 2, "cpu")
    turned, grown = (
        drift.moved(drift._leading(first[0].double()), drift._leading(a[0].double())) for a in (second, 2 * first)
    )
    assert turned == pytest.approx((0.1, 0, 0.1 / 2**0.5), rel=0.2, abs=1e-5)
    assert grown == pytest.approx((1, 1, 0), abs=1e-5)


def test_the_miniatures_drift_is_recorded_in_every_layer_that_attends_to_anchors():
    rows = drift.bench_drift("miniature", "world-cat", "svd-fraction-0.1-no-injection", 3, "cpu")
    assert [(row["layer"], row["of"]) for row in rows[:-1]] == [(layer, of) for layer in (2, 3, 4, 5) for of in "kv"]
    assert all(0 < row["drift, median"] < 1 for row in rows)


def test_followed_counts_what_is_alive_and_not_the_weights():
    layer = torch.nn.Linear(256, 256, bias=False, device="meta")
    with torch.no_grad(), peak_memory.Followed(layer) as followed:
        x = torch.empty(10, 256, device="meta")  # 10 KiB
        y = layer(x)  # and 10 more
        del x
        z = y + 1  # and 10 in place of the first
    assert followed.peak == 20 * 1024
    assert followed.now == 20 * 1024
    del y, z
    assert followed.now == 0


@pytest.mark.parametrize("name", ["svd-log2", "svd-clip-2"])
def test_memory_of_filters_is_counted_where_tensors_hold_no_numbers(monkeypatch, name):
    monkeypatch.setattr(bank, "SMALLEST", 4)
    monkeypatch.setattr(full_size, "conditioning", lambda images, *_: conditioning_on("meta", images))
    unet = copy.deepcopy(reference.unet()).to("meta")
    plain, peak = (peak_memory.activations(unet, named(of), 4, 128, None) for of in ("unmasked", name))
    assert peak >= plain > 0


def conditioning_on(device: str, images: int) -> Conditioning:
    made = reference.conditioning(images)
    tensors = {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in vars(made).items()}
    return Conditioning(**tensors)


def test_the_steps_that_are_timed_do_what_their_columns_say():
    method = named("consistory-no-attention")  # masks need a UNet; blending, injection don't
    family = ConsiStory(Pass(method, None, [], torch.arange(step.STEPS), None, None, None, None, matches="matches"))

    def does(at: int) -> tuple[bool, bool]:
        plan = family.begin_step(at)
        return plan.blend is not None, plan.injection is not None

    assert does(step.BLENDED) == (True, True) and does(peak_memory.RUN - 1) == (True, True)
    assert does(step.INJECTED) == (False, True) and does(step.EXTENDED) == (False, False)


def test_a_step_is_measured_against_plain_sdxls_whatever_is_asked_for(monkeypatch):
    monkeypatch.setattr(full_size, "sdxl_unet", lambda device, dtype: reference.unet())
    monkeypatch.setattr(full_size, "conditioning", lambda images, *_: reference.conditioning(images))
    rows = step.bench_step("cpu", ("consistory", "svd-log-no-injection"), images=3, side=128)
    assert [row["method"] for row in rows] == ["sdxl", "consistory", "svd-log-no-injection"] and rows[0]["ratio"] == 1
    assert rows[1]["ratio"] == rows[1]["step s"] / rows[0]["step s"]
    assert ["injected s" in row for row in rows] == ["blended s" in row for row in rows[:2]] + [False]
    assert 0 < rows[2]["filter's share"] and "blended s" in rows[2]
    assert "injected s" in record.table(rows)
