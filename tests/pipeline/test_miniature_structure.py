"""The miniature is SDXL in structure: stock classes, SDXL's tokenizer, conditions and scheduler."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from open_clip.tokenizer import SimpleTokenizer

from svdstory.pipeline.miniature.architecture import LATENT, TIME_IDS, build_scheduler, build_vae, embed_prompts
from svdstory.pipeline.miniature.autoencoder import normalise_latents, opponent_colours
from svdstory.pipeline.miniature.diffusion import Denoiser
from svdstory.pipeline.miniature.export import export, miniature
from svdstory.pipeline.miniature.sheets import sample_pictures
from svdstory.pipeline.miniature.vocabulary import build_tokenizer
from svdstory.pipeline.miniature.world import all_captions


@pytest.fixture(scope="module")
def untrained():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_vae().eval(), Denoiser().eval()


@pytest.fixture(scope="module")
def folder(untrained, tmp_path_factory):
    path = tmp_path_factory.mktemp("miniature")
    export(*untrained, path)
    return path


def test_captions_tokenize_as_clips_whole_vocabulary_does_and_fit_the_prompt_length():
    tokenizer, full = build_tokenizer(), SimpleTokenizer()
    for text in all_captions()[::37]:
        ids = tokenizer(text).input_ids
        assert tokenizer.convert_ids_to_tokens(ids)[1:-1] == [full.decoder[number] for number in full.encode(text)]
        assert len(ids) <= 18 < tokenizer.model_max_length


@pytest.mark.parametrize("text", ["a zebra on a tricycle", "Привет, лиса!", "naïve café 42", "🦊"])
def test_a_word_outside_the_vocabulary_is_spelled_out_and_never_unknown(text):
    tokenizer = build_tokenizer()
    ids = tokenizer(text).input_ids[1:-1]
    assert tokenizer.eos_token_id not in ids and tokenizer.bos_token_id not in ids
    assert tokenizer.decode(ids).replace(" ", "") == text.lower().replace(" ", "")


def test_plain_diffusers_loads_the_exported_folder_and_draws_from_it(folder):
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder)
    assert pipeline.unet.config.addition_embed_type == "text_time"
    assert pipeline.config.force_zeros_for_empty_prompt
    pictures = sample_pictures(pipeline, ["A photo of a bus in the snow"] * 2, steps=2)
    assert pictures.shape == (2, 64, 64, 3) and pictures.dtype == np.uint8
    assert not np.array_equal(*pictures)  # each has its own noise


def test_exported_weights_are_fp16_safetensors_of_at_most_sixteen_megabytes(folder):
    from safetensors.torch import load_file

    files = [file for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 16 * 2**20
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".pkl")]
    weights = [file for file in files if file.suffix == ".safetensors"]
    assert len(weights) == 4
    for file in weights:
        assert {tensor.dtype for tensor in load_file(file).values() if tensor.is_floating_point()} == {torch.float16}


def test_training_and_stock_pipeline_make_the_same_conditions(untrained):
    vae, denoiser = untrained
    pipeline = miniature(vae, denoiser)
    captions = ["A photo of a cat in the desert", "A drawing of a blue bus in the snow"]
    with torch.no_grad():
        prompts, pooled = embed_prompts((denoiser.text_encoder, denoiser.text_encoder_2), *denoiser.tokens(captions))
        stock, unconditional, stock_pooled, _ = pipeline.encode_prompt(captions, device="cpu")
    assert torch.allclose(prompts, stock, atol=1e-5) and torch.allclose(pooled, stock_pooled, atol=1e-5)
    assert unconditional.abs().max() == 0
    made = pipeline._get_add_time_ids((64, 64), (0, 0), (64, 64), dtype=torch.float32, text_encoder_projection_dim=64)
    assert made.tolist() == [list(TIME_IDS)]


def test_attention_runs_at_a_half_and_a_quarter_of_the_latents_side(untrained):
    _, denoiser = untrained
    sides = set()
    hooks = [
        module.register_forward_hook(lambda _, given, __: sides.add(int(given[0].shape[1] ** 0.5)))
        for name, module in denoiser.unet.named_modules()
        if name.endswith("attn1")
    ]
    with torch.no_grad():
        denoiser(torch.zeros(1, 4, LATENT, LATENT), torch.tensor([5]), ["a cat"], torch.ones(1))
    for hook in hooks:
        hook.remove()
    assert sides == {LATENT // 2, LATENT // 4}


def test_scheduler_has_sdxls_betas_and_spacing_and_says_that_it_predicts_v():
    config = build_scheduler().config
    assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.00085, 0.012, "scaled_linear")
    assert (config.timestep_spacing, config.steps_offset, config.prediction_type) == ("leading", 1, "v_prediction")


def test_folding_the_latents_scale_into_the_weights_leaves_reconstructions_alone():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        vae = build_vae().eval()
        images = torch.rand(8, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before = vae.decode(vae.encode(images).latent_dist.mode()).sample
        normalise_latents(vae, images)
        latents = vae.encode(images).latent_dist.mode()
        after = vae.decode(latents).sample
    assert torch.allclose(before, after, atol=1e-3)
    assert torch.allclose(latents.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-3)
    assert torch.allclose(latents.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3)


def test_grey_has_no_opponent_colour():
    grey = torch.full((1, 3, 4, 4), 0.3)
    light, red_green, yellow_blue = opponent_colours(grey)[0, :, 0, 0].tolist()
    assert light > 0 and abs(red_green) < 1e-6 and abs(yellow_blue) < 1e-6
