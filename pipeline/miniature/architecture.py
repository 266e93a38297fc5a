"""SDXL in miniature: stock diffusers and transformers classes, SDXL's structure, a thousandth of its size.

64-px pictures, latents (4, 32, 32), so that attention runs at 16 × 16 and 8 × 8 tokens as SDXL's does at H/2 and
H/4. Two text encoders are read at their last layer but one and joined; the second one's pooled output and the size
ids go in as SDXL's `text_time` embedding.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from svdstory.pipeline.miniature.vocabulary import PROMPT_LENGTH, build_tokenizer

PICTURE = 64  # pixels
LATENT = 32
TEXT_WIDTH = 64  # of each text encoder
TIME_IDS = (PICTURE, PICTURE, 0, 0, PICTURE, PICTURE)  # original size, crop, target size: as SDXL's pipeline makes them
TIME_ID_WIDTH = 8


def build_vae() -> AutoencoderKL:
    """Factor 2, four latent channels. The latents' scale is folded into its weights: scaling_factor is 1."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=PICTURE,
        scaling_factor=1.0,
        force_upcast=False,
        mid_block_add_attention=False,
    )


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=LATENT,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(24, 48, 96),
        layers_per_block=1,
        transformer_layers_per_block=(1, 1, 1),
        attention_head_dim=(1, 2, 4),  # the number of heads, as in SDXL's config; each 24 wide
        cross_attention_dim=2 * TEXT_WIDTH,
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_ID_WIDTH,
        projection_class_embeddings_input_dim=len(TIME_IDS) * TIME_ID_WIDTH + TEXT_WIDTH,
    )


def text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=PROMPT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )


def build_text_encoders(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Two encoders. Token embeddings start at a deviation of 0.5: CLIP's 0.02 is too small to learn from scratch."""
    encoders = CLIPTextModel(text_config(tokenizer)), CLIPTextModelWithProjection(text_config(tokenizer))
    for encoder in encoders:
        nn.init.normal_(encoder.get_input_embeddings().weight, std=0.5)
    return encoders


def build_scheduler() -> DDIMScheduler:
    """SDXL's betas and spacing; the miniature predicts v."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="leading",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )


def build_pipeline(
    vae: AutoencoderKL, unet: UNet2DConditionModel, encoders: tuple[CLIPTextModel, CLIPTextModelWithProjection]
) -> StableDiffusionXLPipeline:
    """The stock pipeline around these parts. An empty negative prompt is zeros, as in SDXL base."""
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        tokenizer=build_tokenizer(),
        tokenizer_2=build_tokenizer(pad_token="!"),
        unet=unet,
        scheduler=build_scheduler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def embed_prompts(
    encoders: tuple[CLIPTextModel, CLIPTextModelWithProjection], tokens: torch.Tensor, tokens_2: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (B, T) twice -> prompt embeddings (B, T, 2 D) and pooled (B, D), as SDXL's pipeline makes them."""
    first = encoders[0](tokens, output_hidden_states=True)
    second = encoders[1](tokens_2, output_hidden_states=True)
    joined = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    return joined, second.text_embeds
