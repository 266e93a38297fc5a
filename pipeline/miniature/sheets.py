"""Sheets of pictures: what the world draws, and what the model samples from the same captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from svdstory.pipeline.miniature.architecture import LATENT, PICTURE
from svdstory.pipeline.miniature.world import (
    ACCESSORY_NAMES,
    ACCESSORY_WORDS,
    KINDS,
    SCENE_LOOKS,
    SCENE_NAMES,
    SETTINGS,
    STYLES,
    draw_view,
    render,
)


@torch.no_grad()
def sample_pictures(
    pipeline: StableDiffusionXLPipeline,
    prompts: list[str],
    first_seed: int = 0,
    steps: int = 20,
    guidance: float = 4.0,
    batch: int = 12,
) -> np.ndarray:
    """Plain sampling by the stock pipeline: uint8 (N, 64, 64, 3). Picture n's noise comes from seed first_seed + n."""
    pipeline.set_progress_bar_config(disable=True)
    pictures = []
    for start in range(0, len(prompts), batch):
        chunk = prompts[start : start + batch]
        noise = torch.stack(
            [
                torch.randn(4, LATENT, LATENT, generator=torch.Generator().manual_seed(first_seed + start + offset))
                for offset in range(len(chunk))
            ]
        )
        output = pipeline(
            prompt=chunk,
            latents=noise.to(pipeline.device, pipeline.dtype),
            num_inference_steps=steps,
            guidance_scale=guidance,
            height=PICTURE,
            width=PICTURE,
            output_type="np",
        ).images
        pictures.append((output * 255).round().astype(np.uint8))
    return np.concatenate(pictures)


def sheet_prompts() -> list[str]:
    """Every kind in a scene, every kind with an accessory: few, because a sheet is drawn in the training's own time."""
    named = [f"{STYLES[0]} a {kind} {SETTINGS[scene]}" for kind, scene in zip(KINDS, SCENE_NAMES)]
    worn = [*ACCESSORY_WORDS.values(), *list(ACCESSORY_WORDS.values())[:4]]
    return named + [f"{STYLES[n // 6]} a {KINDS[n % len(KINDS)]} {words}" for n, words in enumerate(worn)]


def grid(pictures: np.ndarray, columns: int, zoom: int = 2) -> Image.Image:
    """Pictures (N, H, W, 3) -> one image, row by row, each pixel `zoom` times as large."""
    rows = [
        np.concatenate(list(pictures[start : start + columns]), axis=1) for start in range(0, len(pictures), columns)
    ]
    image = Image.fromarray(np.concatenate(rows))
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)


def world_sheet() -> Image.Image:
    """Looks of all scenes × accessories (none first) as the world draws them, kinds and styles in turn."""
    pictures = [
        render(
            draw_view(
                np.random.default_rng((7, row, column)),
                kind=KINDS[(row + column) % len(KINDS)],
                scene=scene,
                look=look,
                accessory=accessory,
                style=STYLES[(row + column) % len(STYLES)],
            )
        ).image
        for row, (scene, look) in enumerate(SCENE_LOOKS)
        for column, accessory in enumerate(("", *ACCESSORY_NAMES))
    ]
    return grid(np.stack(pictures), columns=1 + len(ACCESSORY_NAMES))


def save_png(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, optimize=True)
