"""CLIP through open_clip: image and text embeddings. B images or texts, D channels of the joint space."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from svdstory.pipeline.metrics.precision import full_precision
from svdstory.pipeline.metrics.preprocessing import in_threads
from svdstory.pipeline.metrics.random_weights import fill_randomly
from svdstory.pipeline.metrics.scorer import RANDOM

ARCHITECTURE = "ViT-B-32-quickgelu"  # OpenAI's ViT-B/32 was trained with QuickGELU
# A miniature for smoke runs: CLIP's own code, tokenizer and preprocessing; always random weights.
TINY = {
    "embed_dim": 64,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


class ClipEmbedder:
    """Unit-norm CLIP embeddings, fp32. The network is built when it is first needed.

    weights  a safetensors file for ARCHITECTURE, with its sha256; None: seeded random weights
    tiny     the miniature instead of ViT-B/32
    """

    name = "clip"
    caption_prefix = "A photo depicts "  # CLIPScore's

    def __init__(
        self, weights: Path | None, sha256: str | None = None, device: str = "cpu", batch: int = 64, tiny: bool = False
    ):
        self.weights, self.device, self.batch, self.tiny = weights, device, batch, tiny
        size = TINY["vision_cfg"]["image_size"] if tiny else 224
        self.protocol = {
            "embedder": "clip: a miniature with two layers" if tiny else f"clip {ARCHITECTURE} (OpenAI)",
            "library": f"open_clip_torch {version('open_clip_torch')}",
            "weights": sha256 if weights else RANDOM,
            "preprocessing": f"bicubic {size}, centre crop, CLIP mean and std",
        }
        self._texts: dict[str, np.ndarray] = {}

    @cached_property
    def model(self) -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]):  # building a network draws from the global generator
            model = _build(self.weights, self.tiny)
        return model.eval().requires_grad_(False).to(self.device)

    @cached_property
    def preprocess(self) -> Callable[[Image.Image], torch.Tensor]:
        """open_clip's own, for this network: (3, h, w) from a picture."""
        return image_transform_v2(PreprocessCfg(**self.model.visual.preprocess_cfg), is_train=False)

    @cached_property
    def tokenize(self) -> Callable[[list[str]], torch.Tensor]:
        return open_clip.get_tokenizer(ARCHITECTURE)  # the vocabulary ships with open_clip

    @full_precision()
    def embed(self, images: Sequence[Image.Image]) -> np.ndarray:
        """(B, D) float32, unit norm."""
        parts = []
        for start in range(0, len(images), self.batch):
            pixels = torch.stack(in_threads(self.preprocess, images[start : start + self.batch]))  # B 3 h w
            parts.append(self.model.encode_image(pixels.to(self.device), normalize=True).cpu().numpy())
        return np.concatenate(parts)

    @full_precision()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(B, D) float32, unit norm. Texts over 77 tokens are cut, as CLIPScore does. Each text is embedded once."""
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        for start in range(0, len(new), self.batch):
            part = new[start : start + self.batch]
            vectors = self.model.encode_text(self.tokenize(part).to(self.device), normalize=True).cpu().numpy()
            self._texts.update(zip(part, vectors))
        return np.stack([self._texts[text] for text in texts])


def _build(weights: Path | None, tiny: bool) -> torch.nn.Module:
    if weights is not None:
        return open_clip.create_model(ARCHITECTURE, pretrained=str(weights))
    if tiny:
        model = open_clip.CLIP(**TINY)
        preprocess = PreprocessCfg(size=TINY["vision_cfg"]["image_size"])
        open_clip.model.set_model_preprocess_cfg(model, asdict(preprocess))
    else:
        model = open_clip.create_model(ARCHITECTURE, load_weights=False)
    fill_randomly(model)
    return model
