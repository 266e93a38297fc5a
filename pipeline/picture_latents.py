"""Pictures to latents: what `decoding.py` undoes."""

from collections.abc import Sequence

import torch
from PIL import Image

from svdstory.pipeline.config.sizes import tiled


@torch.no_grad()
def latents_of(pipe, pictures: Sequence[Image.Image], device) -> torch.Tensor:
    """(R, C, H, W) float32: the mode of what the VAE's encoder says of each picture, times its scaling factor.

    Pictures are RGB, all of one size. A VAE that its configuration marks `force_upcast` (SDXL's) encodes in float32, as
    it decodes; large pictures in tiles.
    """
    vae = pipe.vae
    own_dtype, own_tiling = vae.dtype, vae.use_tiling
    if tiled(*pictures[0].size):
        vae.enable_tiling()
    try:
        if own_dtype == torch.float16 and vae.config.force_upcast:
            vae.to(torch.float32)
        pixels = (pipe.image_processor.preprocess(one).to(device, vae.dtype) for one in pictures)
        found = torch.cat([_scaled(vae, vae.encode(one).latent_dist.mode().float()) for one in pixels])
        return found.contiguous()  # an encoder may give them channels last, and sums differ with the layout
    finally:
        vae.use_tiling = own_tiling
        if vae.dtype != own_dtype:
            vae.to(own_dtype)


def _scaled(vae, latents: torch.Tensor) -> torch.Tensor:
    config = vae.config
    if getattr(config, "latents_mean", None) is not None and getattr(config, "latents_std", None) is not None:
        mean, std = (latents.new_tensor(x).view(1, -1, 1, 1) for x in (config.latents_mean, config.latents_std))
        return (latents - mean) * config.scaling_factor / std
    return latents * config.scaling_factor
