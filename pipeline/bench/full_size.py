"""SDXL's UNet and VAE at full size with random weights: time and memory need no trained ones."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor

from svdstory.pipeline.models.tiny import SDXL_SCHEDULE
from svdstory.pipeline.sampling.denoiser import Conditioning

SDXL_UNET = dict(
    sample_size=128,
    block_out_channels=(320, 640, 1280),
    layers_per_block=2,
    transformer_layers_per_block=(1, 2, 10),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=(5, 10, 20),
    cross_attention_dim=2048,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
SDXL_VAE = dict(
    sample_size=1024,
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    latent_channels=4,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    scaling_factor=0.13025,
)


def sdxl_unet(device: str, dtype: torch.dtype) -> UNet2DConditionModel:
    """2.57 B parameters on the device (`meta`: none), drawn there. Leaves the global generators as they were."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL_UNET)
    unet = unet.to(dtype).eval().requires_grad_(False)
    if device == "meta":
        return unet
    unet = unet.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    for name, weight in unet.named_parameters():
        if weight.ndim > 1:
            weight.normal_(std=weight[0].numel() ** -0.5, generator=generator)
        else:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
    return unet


def sdxl_vae(device: str) -> AutoencoderKL:
    """0.08 B parameters in float32, as pictures are decoded; on a device their content is whatever lies there."""
    with torch.device("meta"):
        vae = AutoencoderKL(**SDXL_VAE)
    vae = vae.eval().requires_grad_(False)
    return vae if device == "meta" else vae.to_empty(device=device)


class FirstSteps(DDIMScheduler):
    """DDIM's schedule, of which only the first `first` steps are run: what happens at which step stays as it is."""

    first: int

    def set_timesteps(self, *args, **kwargs) -> None:
        super().set_timesteps(*args, **kwargs)
        self.timesteps = self.timesteps[: self.first]


def scheduler(first: int) -> FirstSteps:
    """SDXL's, for the first few steps of a pass."""
    made = FirstSteps(**SDXL_SCHEDULE)
    made.first = first
    return made


def conditioning(images: int, side: int, device: str, dtype: torch.dtype) -> Conditioning:
    """Random embeddings for `images` prompts at side x side pixels; the subject is token 5."""

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).to(device, dtype)

    time_ids = torch.tensor([side, side, 0, 0, side, side]).to(device, dtype)
    subject = torch.full((images, 1), 5).to(device)
    return Conditioning(
        drawn(images, 77, 2048), drawn(images, 1280), drawn(images, 77, 2048), drawn(images, 1280), time_ids, subject
    )


def latents(images: int, side: int) -> Tensor:
    return torch.randn(images, 4, side // 8, side // 8, generator=torch.Generator().manual_seed(0))
