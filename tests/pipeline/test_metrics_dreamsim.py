"""DreamSim through its own package, from random weights staged as its release lays them out; no network."""

import socket

import numpy as np
import pytest
import torch
from dreamsim.feature_extraction.vision_transformer import vit_base
from PIL import Image
from safetensors.torch import load_file

from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.metrics import staging
from svdstory.pipeline.metrics.dino import CHECKPOINT
from svdstory.pipeline.metrics.dreamsim_embedder import DreamSimEmbedder
from svdstory.pipeline.metrics.random_dreamsim import ALPHA, RANK, write_random_dreamsim
from svdstory.pipeline.metrics.registry import load_scorer
from svdstory.pipeline.metrics.scorer import RANDOM, UnitImages


def pictures(count):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((160, 96)) for _ in range(count)]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A weights folder as `prefetch` leaves it, for the single backbone with DINO."""
    folder = tmp_path_factory.mktemp("weights")
    write_random_dreamsim("dino_vitb16", folder / "dreamsim", seed=3)
    return folder


@pytest.fixture(scope="session")
def scorer(folder):
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*arguments, **named):
            raise AssertionError("a worker must not open a connection")

        patch.setattr(socket.socket, "connect", refuse)
        scorer = load_scorer("dreamsim:dino_vitb16", folder=folder)
        assert scorer.embedder.loaded
    return scorer


def test_a_distance_from_cached_embeddings_equals_dreamsims_own_forward(scorer):
    images = pictures(2)
    model, preprocess = scorer.embedder.loaded
    with torch.no_grad():
        expected = model(preprocess(images[0]), preprocess(images[1])).item()
    values = scorer.score(UnitImages(images, ["p"] * 2, "s"))
    assert values["dreamsim_pairs"] == pytest.approx([expected], abs=1e-5)
    assert values["dreamsim"] == pytest.approx(expected, abs=1e-5)


def test_the_released_adapter_is_really_applied_to_dinos_weights(scorer, folder):
    """Against a plain ViT with the low-rank update added by hand: peft skips keys it doesn't know without a word."""
    state = torch.load(folder / "dreamsim" / CHECKPOINT, weights_only=True)
    adapter = load_file(folder / "dreamsim" / "dino_vitb16_single_lora" / "adapter_model.safetensors")
    for block in range(12):
        lora = f"base_model.model.extractor_list.0.model.blocks.{block}.attn.qkv.lora"
        update = adapter[f"{lora}_B.weight"] @ adapter[f"{lora}_A.weight"]
        qkv = f"blocks.{block}.attn.qkv.weight"
        state[qkv] = state[qkv] + ALPHA / RANK * update  # blocks share their tensors: not in place
    model = vit_base(patch_size=16).eval()
    model.load_state_dict(state)
    caught = []
    model.blocks[11].register_forward_hook(lambda module, inputs, output: caught.append(output[:, 0]))
    pixels = scorer.embedder.loaded[1](pictures(1)[0])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        model((pixels - mean) / std)
    expected = caught[0] - caught[0].mean()
    np.testing.assert_allclose(scorer.embedder.embed(pictures(1)), expected / expected.norm(), atol=1e-5)


def test_an_adapter_that_does_not_fit_is_an_error_not_a_silent_no_op(folder, tmp_path):
    for item in (folder / "dreamsim").iterdir():
        if item.name != "dino_vitb16_single_lora":
            (tmp_path / item.name).symlink_to(item)
    from safetensors.torch import save_file

    lora = tmp_path / "dino_vitb16_single_lora"
    lora.mkdir()
    (lora / "adapter_config.json").write_text((folder / "dreamsim" / lora.name / "adapter_config.json").read_text())
    save_file({"base_model.model.elsewhere.lora_A.weight": torch.ones(2)}, lora / "adapter_model.safetensors")
    with pytest.raises(InputError, match="was not applied to 12 layers"):
        DreamSimEmbedder("dino_vitb16", tmp_path, "sha").embed(pictures(1))


def test_loading_puts_torch_hubs_folder_and_the_global_generator_back(folder):
    before = torch.hub.get_dir()
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    assert DreamSimEmbedder("dino_vitb16", folder / "dreamsim", "sha").loaded
    assert torch.hub.get_dir() == before and torch.rand(1) == expected


def test_the_protocol_says_which_weights(scorer, folder):
    assert scorer.protocol["weights"] == staging.weights_hash("dreamsim:dino_vitb16", folder)
    assert load_scorer("dreamsim", folder=folder, allow_random=True).protocol["weights"] == RANDOM


def test_missing_files_are_named_each_with_its_source(folder):
    with pytest.raises(InputError) as error:
        load_scorer("dreamsim", folder=folder)
    text = str(error.value)
    assert "clip_vitb16_pretrain.pth.tar" in text and "ensemble_lora/adapter_config.json" in text
    assert "dino_vitbase16_pretrain.pth" not in text  # that one is there
    assert "dreamsim_ensemble_checkpoint.zip" in text


def test_the_ensemble_concatenates_three_backbones_and_equals_dreamsims_own_forward():
    scorer = load_scorer("dreamsim", folder=staging.Path("/nonexistent"), allow_random=True)
    images = pictures(2)
    model, preprocess = scorer.embedder.loaded
    with torch.no_grad():
        expected = model(preprocess(images[0]), preprocess(images[1])).item()
    assert scorer.embedder.embed(images[:1]).shape == (1, 1792)
    assert scorer.score(UnitImages(images, ["p"] * 2, "s"))["dreamsim"] == pytest.approx(expected, abs=1e-5)
