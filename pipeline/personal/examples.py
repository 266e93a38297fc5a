"""What a subject is learned from: pictures as latents, with their prompts; and what an update draws of them.

R pictures, C channels, H × W latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.models.load import Model
from svdstory.pipeline.picture_latents import latents_of
from svdstory.pipeline.sampling.noise import generator


@dataclass(frozen=True)
class Examples:
    """latents: (R, C, H, W) float32 on the CPU; prompts: of each; weight: of the mean of their losses."""

    latents: Tensor
    prompts: tuple[str, ...]
    weight: float = 1.0

    @classmethod
    def of(
        cls, model: Model, pictures: Sequence[Image.Image], prompts: Sequence[str], weight: float = 1.0
    ) -> "Examples":
        latents = latents_of(model.pipe, [picture.convert("RGB") for picture in pictures], model.device)
        return cls(latents.cpu(), tuple(prompts), weight)


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
