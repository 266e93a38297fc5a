"""Another VAE than the model's own, and pictures too large for one piece."""

import pytest
import torch

from svdstory.jobs.study.command_line import command
from svdstory.jobs.study.unit_keys import content
from svdstory.pipeline.config import sizes
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.decoding import decode
from svdstory.pipeline.models.load import load_model
from svdstory.pipeline.models.spec import resolve_model
from svdstory.pipeline.models.tiny import build_tiny
from tests.pipeline.test_loras import plan_of


@pytest.fixture
def folder(tmp_path):
    vae = build_tiny().vae
    vae.register_to_config(scaling_factor=0.5, force_upcast=False)
    vae.save_pretrained(tmp_path / "vae")
    return str(tmp_path / "vae")


def test_another_vae_decodes_and_a_unit_knows_it_by_content(folder, tmp_path):
    model = load_model(resolve_model("tiny", vae=folder), device="cpu")
    assert model.pipe.vae.config.scaling_factor == 0.5 and not model.pipe.vae.config.force_upcast
    plain, other = plan_of(tmp_path), plan_of(tmp_path, vae=folder)
    assert not plain.units.keys() & other.units.keys() and "--set 'vae=" in command(other).replace(
        "--set vae", "--set 'vae"
    )
    build_tiny().vae.save_pretrained(folder)
    assert not plan_of(tmp_path, vae=folder).units.keys() & other.units.keys()


def test_a_vae_that_is_not_there_is_an_error_with_the_command_that_fetches_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="hf download madebyollin/sdxl-vae-fp16-fix --revision 207b116d"):
        plan_of(tmp_path, vae="madebyollin/sdxl-vae-fp16-fix@207b116dae70ace3637169f1ddd2434b91b3a8cd")
    with pytest.raises(InputError, match="has no config.json"):
        plan_of(tmp_path, vae="nowhere")


def test_large_pictures_are_decoded_in_tiles_and_are_other_units(monkeypatch, tmp_path):
    pipe, calls = build_tiny(), []
    assert "vae_tiling" not in content(plan_of(tmp_path, size=[2048, 1024]).sampling)
    assert content(plan_of(tmp_path, size=[2048, 1088]).sampling)["vae_tiling"]
    monkeypatch.setattr(sizes, "TILED_ABOVE", 128 * 128)
    tiled = pipe.vae.tiled_decode
    monkeypatch.setattr(pipe.vae, "tiled_decode", lambda *a, **k: calls.append(1) or tiled(*a, **k))
    pipe.vae.tile_latent_min_size, pipe.vae.tile_sample_min_size = 8, 64
    decode(pipe, torch.randn(1, 4, 8, 8))
    decode(pipe, torch.randn(1, 4, 16, 16))
    assert not calls
    images, _ = decode(pipe, torch.randn(1, 4, 16, 24))
    assert images[0].size == (192, 128) and calls == [1] and not pipe.vae.use_tiling
