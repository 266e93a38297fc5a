"""Latents to pictures, and the check that they are pictures."""

import torch
from PIL import Image

from svdstory.pipeline.config.sizes import tiled


class NotFinite(ArithmeticError):
    """Sampling or decoding gave inf or nan, or a constant picture."""


@torch.no_grad()
def decode(pipe, latents: torch.Tensor) -> tuple[list[Image.Image], int]:
    """Latents (B, C, H, W) to RGB images, one at a time, and how many were decoded again in float32.

    Large pictures (config/sizes.py) are decoded in tiles. A VAE that its configuration marks `force_upcast` (SDXL's) is
    decoded in float32. Raises NotFinite.
    """
    vae, images, again = pipe.vae, [], 0
    height, width = (side * pipe.vae_scale_factor for side in latents.shape[-2:])
    own_dtype, own_tiling = vae.dtype, vae.use_tiling
    if tiled(width, height):
        vae.enable_tiling()
    try:
        if own_dtype == torch.float16 and vae.config.force_upcast:
            vae.to(torch.float32)
        for one in latents:
            pixels = _decode_one(vae, one[None])
            if not torch.isfinite(pixels).all() and vae.dtype != torch.float32:
                vae.to(torch.float32)
                again += 1
                pixels = _decode_one(vae, one[None])
            if not torch.isfinite(pixels).all():
                raise NotFinite("the decoded picture holds inf or nan, in float32 too")
            [image] = pipe.image_processor.postprocess(pixels, output_type="pil")
            if all(low == high for low, high in image.getextrema()):  # of 8 bits: after clamping and rounding
                raise NotFinite("the decoded picture is constant")
            if image.size != (width, height):
                raise RuntimeError(f"the VAE made a picture of {image.width}×{image.height}, not {width}×{height}")
            images.append(image)
    finally:
        vae.use_tiling = own_tiling
        if vae.dtype != own_dtype:
            vae.to(own_dtype)
    return images, again


def _decode_one(vae, latents: torch.Tensor) -> torch.Tensor:
    config = vae.config
    if getattr(config, "latents_mean", None) is not None and getattr(config, "latents_std", None) is not None:
        mean, std = (
            torch.tensor(x, device=latents.device).view(1, -1, 1, 1) for x in (config.latents_mean, config.latents_std)
        )
        latents = latents * std / config.scaling_factor + mean
    else:
        latents = latents / config.scaling_factor
    return vae.decode(latents.to(vae.dtype), return_dict=False)[0].float()
