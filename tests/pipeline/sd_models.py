"""SD 1.5 and 2.1 in miniature: random weights in diffusers' layout, their blocks and switches, as their files have them.

Four levels, self- and cross-attention at the latents' own size, H/2, H/4 and (in the middle) H/8; one text encoder.
"""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from svdstory.pipeline.models.tiny import TEXT, VAE, clip_tokenizers, fill

SD_BLOCKS = dict(
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
)
# where the two differ: 8 heads of any width and convolutions around attention; heads of 64 (here 8) and linear layers
SD_UNETS = {
    "sd15": dict(attention_head_dim=2, cross_attention_dim=24, use_linear_projection=False),
    "sd21": dict(attention_head_dim=(1, 2, 4, 4), cross_attention_dim=32, use_linear_projection=True),
}
SCHEDULE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)


def build_sd(name: str) -> StableDiffusionPipeline:
    """Reads and leaves the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16, 32, 32),
            layers_per_block=1,
            norm_num_groups=4,
            **SD_BLOCKS,
            **SD_UNETS[name],
        )
        vae = AutoencoderKL(**VAE)
        width = SD_UNETS[name]["cross_attention_dim"]
        text = CLIPTextModel(CLIPTextConfig(**{**TEXT, "hidden_size": width, "intermediate_size": 2 * width}))
    for model in (unet, vae, text):
        fill(model)
        model.eval()
    tokenizer, with_exclamation_marks = clip_tokenizers()
    scheduler = PNDMScheduler(**SCHEDULE, skip_prk_steps=True)
    if name == "sd21":
        scheduler = DDIMScheduler(**SCHEDULE, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer if name == "sd15" else with_exclamation_marks,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
