"""Spectra are recorded on demand, and nothing else changes."""

import torch

from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.sampling.sampler import sample
from svdstory.pipeline.spectral.recorder import SpectraRecorder
from tests.pipeline import reference


def draw(method: str, **options):
    latents = reference.inputs()["latents"][:3]
    return sample(
        reference.unet(),
        reference.scheduler(),
        reference.conditioning(3),
        named(method),
        seed=0,
        steps=6,
        guidance=reference.GUIDANCE,
        latents=latents,
        **options,
    )


def test_recording_does_not_change_the_images():
    assert torch.equal(draw("svd-log").latents, draw("svd-log", spectra=SpectraRecorder()).latents)


def test_three_layers_of_keys_and_values_are_kept_at_the_reports_steps():
    recorder = SpectraRecorder()
    draw("svd-log", spectra=recorder)
    assert {step for _, _, step in recorder.values} == {1, 5}  # 10, 20 and 29 are beyond six steps
    assert len(recorder.layers) == 3 and {name for name, _, _ in recorder.values} == {"k", "v"}
    assert len(recorder.tensors()) == 24  # and their token maps
    assert all((values.diff() <= 0).all() for values in recorder.values.values())


def test_the_spectrum_is_of_the_first_anchors_conditional_half_before_the_filter():
    k, v = torch.randn(4, 10, 6), torch.randn(4, 10, 6)  # [uncond × 2, cond × 2]
    recorder = SpectraRecorder(layers=(7,))
    recorder.record(7, 1, k, v, anchors=2)
    recorder.record(7, 2, k, v, anchors=2)
    recorder.record(8, 1, k, v, anchors=2)
    assert list(recorder.tensors()) == ["k.7.1", "v.7.1", "k.7.1.tokens", "v.7.1.tokens"]
    assert torch.allclose(recorder.tensors()["k.7.1"], torch.linalg.svdvals(k[2]), rtol=1e-5)


def test_a_method_without_extended_attention_has_no_spectra():
    recorder = SpectraRecorder()
    draw("sdxl", spectra=recorder)
    assert not recorder.tensors()


def test_a_planted_component_is_found_where_it_was_planted():
    """K is noise and one strong rank-one matrix that only the tokens of a square hold."""
    generator = torch.Generator().manual_seed(0)
    square = torch.zeros(8, 8)
    square[2:5, 3:6] = 1
    k = 0.01 * torch.randn(2, 64, 10, generator=generator)
    k[1] += 5 * square.flatten()[:, None] * torch.randn(10, generator=generator)
    recorder = SpectraRecorder(layers=(7,))
    recorder.record(7, 1, k, k, anchors=1)
    first, second = recorder.tensors()["k.7.1.tokens"][:2]
    assert torch.allclose(first, square.flatten() / 3, atol=0.01)  # |u_1| = 1 over nine tokens, upright
    assert (second**2 * square.flatten()).sum() < 0.5
