"""`tiny`: SDXL's architecture in miniature with random weights and CLIP's real vocabulary. Its images are noise."""

import hashlib
import math

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from svdstory.pipeline.config.tokens import clip_vocabulary
from svdstory.pipeline.sampling.noise import generator

SDXL_SCHEDULE = dict(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    clip_sample=False,
    set_alpha_to_one=False,
    steps_offset=1,
    timestep_spacing="leading",
    prediction_type="epsilon",
)
TEXT = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    projection_dim=32,
    max_position_embeddings=77,
    vocab_size=49408,
    bos_token_id=49406,
    eos_token_id=49407,
    pad_token_id=49407,
)

VAE = dict(
    block_out_channels=(8, 8, 8, 8),
    norm_num_groups=4,
    latent_channels=4,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
)


def build_tiny() -> StableDiffusionXLPipeline:
    """A stock pipeline; the same weights on every machine. Reads and leaves the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(16, 32, 32),
            layers_per_block=1,
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 2),
            attention_head_dim=(2, 4, 4),
            cross_attention_dim=64,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=32 + 6 * 8,
        )
        vae = AutoencoderKL(**VAE, scaling_factor=0.13025)
        encoders = CLIPTextModel(CLIPTextConfig(**TEXT)), CLIPTextModelWithProjection(CLIPTextConfig(**TEXT))
    for model in (unet, vae, *encoders):
        fill(model)
        model.eval()
    tokenizer, tokenizer_2 = clip_tokenizers()
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=DDIMScheduler(**SDXL_SCHEDULE),
        add_watermarker=False,
    )


def clip_tokenizers() -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """SDXL's two: one vocabulary, padded with different tokens."""
    vocabulary, merges = clip_vocabulary()
    one, other = (
        CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77, pad_token=pad)
        for pad in ("<|endoftext|>", "!")
    )
    return one, other


@torch.no_grad()
def fill(model: torch.nn.Module) -> None:
    """Random weights by name and shape: matrices normal / sqrt(fan in), vectors as norms and biases start."""
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            fan_in = weight.shape[-1] if "embedding" in name else math.prod(weight.shape[1:])
            drawn = torch.randn(weight.shape, generator=generator("tiny", _short(name), tuple(weight.shape)))
            weight.copy_(drawn / math.sqrt(fan_in))
        else:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)


def _short(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]
