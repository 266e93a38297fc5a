"""What a subject is learned from: pictures as latents, with their prompts; and what an update draws of them.

R pictures, C channels, H × W latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.sampling.noise import generator


@dataclass(frozen=True)
class Examples:
    """latents: (R, C, H, W) float32 on the CPU; prompts: of each; weight: of the mean of their losses."""

    latents: Tensor
    prompts: tuple[str, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Draw:
    """An update's rows of one kind: which examples (N,), their noise (N, C, H, W) and their time steps (N,)."""

    which: Tensor
    noise: Tensor
    timesteps: Tensor


def draws(key: str, update: int, kinds: Sequence[Examples], rows: int, train_steps: int) -> list[Draw]:
    """What update number `update` draws of each kind: of (key, update) alone, wherever a run was interrupted."""
    by = generator("tune", key, update)
    drawn = []
    for kind in kinds:
        which = torch.randint(len(kind.latents), (rows,), generator=by)
        noise = torch.randn(rows, *kind.latents.shape[1:], generator=by)
        drawn.append(Draw(which, noise, torch.randint(train_steps, (rows,), generator=by)))
    return drawn


def training_prompts(prompts: PromptSet, settings: Sequence[str]) -> tuple[str, ...]:
    """`{style} {subject} {setting}` of each picture."""
    return tuple(prompts.model_copy(update={"settings": tuple(settings)}).prompts)


@torch.no_grad()
def latents_of(pipe, pictures: Sequence[Image.Image]) -> Tensor:
    """(R, C, H, W) float32 on the CPU: the mode of the VAE's posterior, scaled; in float32 where the VAE wants it."""
    vae, own = pipe.vae, pipe.vae.dtype
    try:
        if own == torch.float16 and vae.config.force_upcast:
            vae.to(torch.float32)
        found = []
        for picture in pictures:
            pixels = pipe.image_processor.preprocess(picture.convert("RGB")).to(vae.device, vae.dtype)
            x = vae.encode(pixels).latent_dist.mode().float()
            mean, std = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
            if mean is not None and std is not None:
                mean, std = (torch.tensor(v, device=x.device).view(1, -1, 1, 1) for v in (mean, std))
                x = (x - mean) / std
            found.append((x * vae.config.scaling_factor).cpu())
        return torch.cat(found)
    finally:
        if vae.dtype != own:
            vae.to(own)
