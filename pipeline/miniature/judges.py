"""The judge: one small network that reads from a picture what the world knows about it.

Kind, accessory, the scene and its look, body and accent hue, pattern, shape, the subject's mask and its accessory's;
and the look of every patch of background by itself, so that what shows in a part of another picture is seen where it
is. Trained in judge_training.py. Symbols: B pictures, S = 64 pixels, P = 16 patches a side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from svdstory.pipeline.miniature.world import KINDS, PATTERNS, SCENE_LOOKS
from svdstory.pipeline.miniature.world.truth import WORN, Reading

WIDTHS = (24, 48, 96)
MOMENTS = 4


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features + self.layers(features)


@dataclass(frozen=True)
class Findings:
    """The judge's raw output: logits, hue vectors (B, 2) as (cos, sin), shape (B,) in 0..1, masks' logits (B, S, S)."""

    kind: torch.Tensor
    accessory: torch.Tensor
    look: torch.Tensor
    patch_look: torch.Tensor  # (B, looks, P, P)
    body: torch.Tensor
    accent: torch.Tensor
    pattern: torch.Tensor
    shape: torch.Tensor
    mask: torch.Tensor
    accessory_mask: torch.Tensor


class Judge(nn.Module):
    """A three-level convolutional encoder; the subject's attributes are read from features pooled over its mask."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.fine = nn.Sequential(nn.Conv2d(3, first, 4, stride=2, padding=1), _Residual(first))
        self.middle = nn.Sequential(nn.Conv2d(first, second, 4, stride=2, padding=1), _Residual(second))
        self.coarse = nn.Sequential(
            nn.Conv2d(second, third, 4, stride=2, padding=1), _Residual(third), _Residual(third)
        )
        self.to_middle = nn.Conv2d(third, second, 1)
        self.to_fine = nn.Conv2d(second, first, 1)
        self.mask = nn.Sequential(_Residual(first), nn.Conv2d(first, 4, 3, padding=1), nn.PixelShuffle(2))
        self.accessory_mask = nn.Sequential(_Residual(first), nn.Conv2d(first, 4, 3, padding=1), nn.PixelShuffle(2))
        self.patch_look = nn.Sequential(_Residual(second), nn.SiLU(), nn.Conv2d(second, len(SCENE_LOOKS), 1))
        self.look = nn.Linear(third, len(SCENE_LOOKS))
        self.accessory = nn.Sequential(nn.Linear(first + second + 2 * third, 64), nn.SiLU(), nn.Linear(64, len(WORN)))
        subject = first + second + third + MOMENTS
        self.attributes = nn.Sequential(
            nn.Linear(subject, 128), nn.SiLU(), nn.Linear(128, len(KINDS) + 2 + 2 + len(PATTERNS) + 1)
        )

    def forward(self, pictures: torch.Tensor) -> Findings:
        """Pictures (B, 3, S, S) in -1..1 -> Findings."""
        fine = self.fine(pictures)  # (B, 24, 32, 32)
        middle = self.middle(fine)  # (B, 48, 16, 16)
        coarse = self.coarse(middle)  # (B, 96, 8, 8)
        up = middle + F.interpolate(self.to_middle(coarse), scale_factor=2.0)
        sharp = fine + F.interpolate(self.to_fine(up), scale_factor=2.0)
        mask, accessory_mask = self.mask(sharp), self.accessory_mask(sharp)  # (B, 1, S, S)
        levels, whole = (fine, middle, coarse), coarse.mean(dim=(2, 3))
        subject = torch.cat([*(_pooled(level, mask) for level in levels), _moments(mask)], dim=1)
        worn = torch.cat([*(_pooled(level, accessory_mask) for level in levels), whole], dim=1)
        kind, body, accent, pattern, shape = self.attributes(subject).split([len(KINDS), 2, 2, len(PATTERNS), 1], dim=1)
        return Findings(
            kind,
            self.accessory(worn),
            self.look(whole),
            self.patch_look(up),
            body,
            accent,
            pattern,
            shape[:, 0].sigmoid(),
            mask[:, 0],
            accessory_mask[:, 0],
        )


def _pooled(features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Features (B, C, h, w) averaged over the subject: mask logits (B, 1, S, S) -> (B, C)."""
    weight = F.adaptive_avg_pool2d(mask.detach().sigmoid(), features.shape[-1]) + 1e-3
    return (features * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3))


def _moments(mask: torch.Tensor) -> torch.Tensor:
    """What the subject's outline measures, which pooling forgets: mask logits (B, 1, S, S) -> (B, 4).

    Root of the area, deviation along x and along y, and how much heavier the lower half is (third moment); each
    brought to about -1..1.
    """
    weight = mask.detach()[:, 0].sigmoid() + 1e-6
    weight = weight / weight.sum(dim=(1, 2), keepdim=True)
    along = torch.linspace(-0.5, 0.5, mask.shape[-1], device=mask.device)
    columns, rows = weight.sum(dim=1), weight.sum(dim=2)  # (B, S) each
    x = along - (columns * along).sum(dim=1, keepdim=True)
    y = along - (rows * along).sum(dim=1, keepdim=True)
    wide, high = (columns * x.square()).sum(dim=1).sqrt(), (rows * y.square()).sum(dim=1).sqrt()
    lean = (rows * y**3).sum(dim=1) / high**3
    area = mask.detach().sigmoid().mean(dim=(1, 2, 3)).sqrt()
    return torch.stack([8 * (area - 0.45), 10 * (wide - 0.16), 10 * (high - 0.13), lean], dim=1)


def load_judge(folder: Path, device: str | torch.device = "cpu") -> Judge:
    """The judge in `folder`/judge.safetensors, ready to read pictures."""
    judge = Judge()
    judge.load_state_dict({name: tensor.float() for name, tensor in load_file(folder / "judge.safetensors").items()})
    return judge.to(device).eval()


def save_judge(judge: Judge, folder: Path) -> None:
    """Write the judge in fp16."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.half().contiguous().cpu() for name, tensor in judge.state_dict().items()}
    save_file(tensors, folder / "judge.safetensors")


@torch.no_grad()
def read_pictures(judge: Judge, pictures: np.ndarray) -> list[Reading]:
    """What the judge sees in each of the pictures: uint8 (N, S, S, 3), S = 64 -> N readings.

    Raises ValueError for another shape or type.
    """
    pictures = np.asarray(pictures)
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1:] != (64, 64, 3):
        raise ValueError(
            f"read_pictures: got {pictures.dtype} {pictures.shape}, expected uint8 (N, 64, 64, 3). "
            "The judge knows the miniature's pictures only."
        )
    device = next(judge.parameters()).device
    readings: list[Reading] = []
    for start in range(0, len(pictures), 64):
        chunk = torch.from_numpy(pictures[start : start + 64].copy()).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        readings += _readings(judge(chunk.to(device)))
    return readings


def _readings(found: Findings) -> list[Reading]:
    def numbers(tensor: torch.Tensor) -> np.ndarray:
        return tensor.double().cpu().numpy()

    def degrees(vector: torch.Tensor) -> np.ndarray:
        return np.degrees(np.arctan2(*numbers(vector).T[::-1])) % 360.0

    classes = (found.kind, found.accessory, found.look, found.pattern)
    kind, accessory, look, pattern = (numbers(logits.softmax(dim=1)) for logits in classes)
    patch_look = numbers(found.patch_look.softmax(dim=1)).transpose(0, 2, 3, 1)
    body, accent, shape = degrees(found.body), degrees(found.accent), numbers(found.shape)
    masks, worn = (found.mask > 0).cpu().numpy(), (found.accessory_mask > 0).cpu().numpy()
    return [
        Reading(
            kind=kind[i],
            accessory=accessory[i],
            look=look[i],
            patch_look=patch_look[i],
            body_hue=float(body[i]),
            accent_hue=float(accent[i]),
            striped=float(pattern[i][PATTERNS.index("striped")]),
            shape=float(shape[i]),
            mask=masks[i],
            accessory_mask=worn[i],
        )
        for i in range(len(masks))
    ]
