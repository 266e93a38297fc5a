"""DINO's ViT-B/16 and ViT-S/16 (Caron et al., arXiv 2104.14294) from staged checkpoints, without code from torch.hub.

The architecture is DreamSim's own copy of DINO's, so that weights mean the same here and there.
"""

from collections.abc import Sequence
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from dreamsim.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from dreamsim.feature_extraction.vision_transformer import VisionTransformer, vit_base, vit_small
from PIL import Image
from torch import nn
from torchvision.transforms import functional as F

from svdstory.pipeline.metrics.precision import full_precision
from svdstory.pipeline.metrics.preprocessing import in_threads
from svdstory.pipeline.metrics.random_weights import fill_randomly
from svdstory.pipeline.metrics.scorer import RANDOM

CHECKPOINT = "checkpoints/dino_vitbase16_pretrain.pth"
SIZE, PATCH, SHORT_SIDE = 224, 16, 256
GRID = SIZE // PATCH  # 14 × 14 tokens of 16 pixels
SMALLEST = {"embed_dim": 64, "depth": 2, "num_heads": 2, "qkv_bias": True}  # the miniature


def dino_vitb16(pretrained: bool = True) -> nn.Module:
    """What torch.hub's `dino_vitb16` gives, from <hub folder>/checkpoints: the entry of DreamSim's offline hub."""
    model = vit_base(patch_size=PATCH)
    if pretrained:
        load_checkpoint(model, Path(torch.hub.get_dir()) / CHECKPOINT)
    return model


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Fill `model` from DINO's file: tensors only, never other pickled objects."""
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)


class DinoTokens:
    """Patch tokens of DINO ViT-B/16's last layer for 224 × 224 pictures. The network is built when first needed.

    checkpoint  DINO's file, with its sha256; None: seeded random weights
    tiny        a miniature of two layers instead of ViT-B/16
    """

    def __init__(
        self,
        checkpoint: Path | None,
        sha256: str | None = None,
        device: str = "cpu",
        batch: int = 64,
        tiny: bool = False,
    ):
        self.checkpoint, self.device, self.batch, self.tiny = checkpoint, device, batch, tiny
        self.protocol = {
            "embedder": "dino: a miniature with two layers" if tiny else "dino_vitb16, tokens of the last layer",
            "library": f"dreamsim {version('dreamsim')} (its copy of DINO's architecture)",
            "weights": sha256 if checkpoint else RANDOM,
            "preprocessing": f"bicubic {SIZE} × {SIZE} without crop, ImageNet mean and std",
        }

    @cached_property
    def model(self) -> nn.Module:
        return network("tiny" if self.tiny else "vitb16", self.checkpoint).to(self.device)

    @full_precision()
    def tokens(self, images: Sequence[Image.Image]) -> np.ndarray:
        """(B, GRID * GRID, D) float32, unit norm, row by row from the top left. Images are squashed to the square."""
        parts = []
        for start in range(0, len(images), self.batch):
            pixels = torch.stack(in_threads(_pixels, images[start : start + self.batch])).to(self.device)
            tokens = self.model.get_intermediate_layers(pixels, n=1)[0][:, 1:]  # B T D, without the class token
            parts.append(nn.functional.normalize(tokens, dim=-1).cpu().numpy())
        return np.concatenate(parts)


def network(kind: str, checkpoint: Path | None) -> nn.Module:
    """vits16, vitb16 or tiny, with DINO's weights of that file; without one, with seeded random ones."""
    kinds = {"vits16": vit_small, "vitb16": vit_base, "tiny": partial(VisionTransformer, **SMALLEST)}
    with torch.random.fork_rng(devices=[]):  # building a network draws from the global generator
        model = kinds[kind](patch_size=PATCH)
    if checkpoint:
        load_checkpoint(model, checkpoint)
    else:
        fill_randomly(model)
    return model.eval().requires_grad_(False)


class DinoEmbedder:
    """DINO's class token, which DINO-I compares (DreamBooth, arXiv 2208.12242: of ViT-S/16).

    kind        vits16, vitb16, or tiny: a miniature of two layers
    checkpoint  DINO's file, with its sha256; None: seeded random weights
    """

    name = "dino"

    def __init__(
        self, kind: str, checkpoint: Path | None, sha256: str | None = None, device: str = "cpu", batch: int = 64
    ):
        self.kind, self.checkpoint, self.device, self.batch = kind, checkpoint, device, batch
        self.protocol = {
            "embedder": "dino: a miniature with two layers" if kind == "tiny" else f"dino_{kind}, class token",
            "library": f"dreamsim {version('dreamsim')} (its copy of DINO's architecture)",
            "weights": sha256 if checkpoint else RANDOM,
            "preprocessing": f"bicubic {SHORT_SIDE} on the shorter side, centre crop {SIZE}, ImageNet mean and std",
        }

    @cached_property
    def model(self) -> nn.Module:
        return network(self.kind, self.checkpoint).to(self.device)

    @full_precision()
    def embed(self, images: Sequence[Image.Image]) -> np.ndarray:
        """(B, D) float32."""
        parts = []
        for start in range(0, len(images), self.batch):
            pixels = torch.stack(in_threads(_cropped, images[start : start + self.batch])).to(self.device)
            parts.append(self.model(pixels).cpu().numpy())
        return np.concatenate(parts)


def _cropped(image: Image.Image) -> torch.Tensor:
    """(3, SIZE, SIZE), as DINO's authors evaluate it."""
    resized = F.resize(image.convert("RGB"), SHORT_SIDE, F.InterpolationMode.BICUBIC)
    return F.normalize(F.to_tensor(F.center_crop(resized, SIZE)), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def _pixels(image: Image.Image) -> torch.Tensor:
    """(3, SIZE, SIZE), normalised as DINO was trained."""
    resized = F.resize(image.convert("RGB"), [SIZE, SIZE], F.InterpolationMode.BICUBIC)
    return F.normalize(F.to_tensor(resized), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
