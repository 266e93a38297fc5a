"""DINO's ViT-B/16 (Caron et al., arXiv 2104.14294) from a staged checkpoint, without running code from torch.hub.

The architecture is DreamSim's own copy of DINO's, so that weights mean the same here and there.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from dreamsim.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from dreamsim.feature_extraction.vision_transformer import VisionTransformer, vit_base
from PIL import Image
from torch import nn
from torchvision.transforms import functional as F

from .random_weights import fill_randomly

CHECKPOINT = "checkpoints/dino_vitbase16_pretrain.pth"
SIZE, PATCH = 224, 16
GRID = SIZE // PATCH  # 14 × 14 tokens of 16 pixels


def dino_vitb16(pretrained: bool = True) -> nn.Module:
    """What torch.hub's `dino_vitb16` gives, from <hub folder>/checkpoints: the entry of DreamSim's offline hub."""
    model = vit_base(patch_size=PATCH)
    if pretrained:
        load_checkpoint(model, Path(torch.hub.get_dir()) / CHECKPOINT)
    return model


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Fill `model` from DINO's file: tensors only, never other pickled objects."""
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)


def staged_or_random(checkpoint: Path | None, tiny: bool, device: str, batch: int) -> tuple["DinoTokens", dict]:
    """DINO from a staged checkpoint; without one, random weights: of ViT-B/16, or of a miniature. And its protocol."""
    with torch.random.fork_rng(devices=[]):
        model = VisionTransformer(embed_dim=64, depth=2, num_heads=2, qkv_bias=True) if tiny else vit_base(PATCH)
    if checkpoint:
        load_checkpoint(model, checkpoint)
    else:
        fill_randomly(model)
    return DinoTokens(model, device, batch), {
        "embedder": "dino: a miniature with two layers" if tiny else "dino_vitb16, tokens of the last layer",
        "library": f"dreamsim {version('dreamsim')} (its copy of DINO's architecture)",
        "preprocessing": f"bicubic {SIZE} × {SIZE} without crop, ImageNet mean and std",
    }


class DinoTokens:
    """Patch tokens of DINO ViT-B/16's last layer for 224 × 224 pictures."""

    def __init__(self, model: nn.Module, device: str = "cpu", batch: int = 64):
        self.model = model.eval().requires_grad_(False).to(device)
        self.device, self.batch = device, batch

    @torch.inference_mode()
    def tokens(self, images: Sequence[Image.Image]) -> np.ndarray:
        """(B, GRID * GRID, D) float32, unit norm, row by row from the top left. Images are squashed to the square."""
        parts = []
        for start in range(0, len(images), self.batch):
            pixels = torch.stack([_pixels(image) for image in images[start:start + self.batch]]).to(self.device)
            tokens = self.model.get_intermediate_layers(pixels, n=1)[0][:, 1:]  # B T D, without the class token
            parts.append(nn.functional.normalize(tokens, dim=-1).cpu().numpy())
        return np.concatenate(parts)


def _pixels(image: Image.Image) -> torch.Tensor:
    """(3, SIZE, SIZE), normalised as DINO was trained."""
    resized = F.resize(image.convert("RGB"), [SIZE, SIZE], F.InterpolationMode.BICUBIC)
    return F.normalize(F.to_tensor(resized), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
