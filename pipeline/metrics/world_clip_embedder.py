"""The miniature's own CLIP as an embedder: it knows the world's words and pictures, and no others."""

from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from svdstory.pipeline.metrics.precision import full_precision

SIDE = 64


class WorldClipEmbedder:
    """Unit-norm embeddings (B, 64), fp32. Prompts are read as they are: it was trained without a prefix."""

    name = "clip-miniature"
    caption_prefix = ""

    def __init__(self, weights: Path, sha256: str, device: str = "cpu", batch: int = 64):
        self.weights, self.device, self.batch = weights, device, batch
        self.protocol = {
            "embedder": "the miniature's CLIP, trained on its world",
            "library": f"open_clip_torch {version('open_clip_torch')}",
            "weights": sha256,
            "preprocessing": f"bicubic {SIDE} × {SIDE}",
        }

    @cached_property
    def clip(self):
        from svdstory.pipeline.miniature.clip import load_clip

        clip = load_clip(self.weights.parent)
        clip.model.requires_grad_(False).to(self.device)
        return clip

    @full_precision()
    def embed(self, images: Sequence[Image.Image]) -> np.ndarray:
        """(B, 64) float32, unit norm."""
        parts = []
        for start in range(0, len(images), self.batch):
            pixels = np.stack([_pixels(image) for image in images[start : start + self.batch]])  # B h w 3
            tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0
            parts.append(self.clip.embed_pictures(tensor.to(self.device)).cpu().numpy())
        return np.concatenate(parts)

    @full_precision()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(B, 64) float32, unit norm."""
        tokens = self.clip.tokens(texts).to(self.device)
        return self.clip.model.encode_text(tokens, normalize=True).cpu().numpy()


def _pixels(image: Image.Image) -> np.ndarray:
    image = image.convert("RGB")
    same = image.size == (SIDE, SIDE)
    return np.asarray(image if same else image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
