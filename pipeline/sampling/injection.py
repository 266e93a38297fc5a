"""Feature injection along DIFT correspondences (ConsiStory, section 3.3; DIFT, arXiv 2306.03881).

B images, A anchors, C channels, P = H/2 · W/2 patches.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from svdstory.pipeline.sampling.masks import otsu

TIMESTEP = 261  # DIFT features are taken at the step nearest to it
STRENGTH = 0.8  # share of the anchor's features in the injected ones
OUTSIDE = 2.0  # distance of patches outside an anchor's mask: the largest cosine distance


@dataclass(frozen=True)
class Correspondences:
    """Where each patch of each image finds its like among the other images, and where it is replaced.

    nearest: (B, A, P) patch of anchor a nearest to patch p of image i
    distance: (B, A, P) cosine distance to it
    source: (B, P) index into the anchors' patches laid end to end (A · P): the nearest patch over anchors
    gate: (B, P) bool, where features are injected
    """

    nearest: torch.Tensor
    distance: torch.Tensor
    source: torch.Tensor
    gate: torch.Tensor

    def inject(self, out: torch.Tensor, rows: list[int], anchors: torch.Tensor | None) -> torch.Tensor:
        """Blend the anchors' features into one layer's cond output, in place, image after image.

        `out`: (R, P, C) of images `rows`. `anchors`: (A, P, C), already injected, or None when the first A
        rows are the anchors themselves. A later image reads anchors that are already injected.
        """
        patches = out[: self.nearest.shape[1]] if anchors is None else anchors
        for r, image in enumerate(rows):
            moved = patches.flatten(0, 1)[self.source[image]]  # (P, C)
            blended = STRENGTH * moved + (1 - STRENGTH) * out[r]
            out[r] = torch.where(self.gate[image][:, None], blended, out[r])
        return out


def correspond(features: torch.Tensor, masks: torch.Tensor, size: tuple[int, int], n_anchors: int) -> Correspondences:
    """Match every image's patches with the anchors' subject patches.

    `features`: (B, C, h, w) DIFT features; `masks`: (B, P) subject masks at `size` = (H/2, W/2).
    """
    f = normalised(features, size)  # (B, P, C)
    images, patches, _ = f.shape
    nearest = torch.zeros(images, n_anchors, patches, dtype=torch.long, device=f.device)
    distance = torch.full((images, n_anchors, patches), OUTSIDE, device=f.device)
    for i in range(images):
        for a in range(n_anchors):
            if a != i:
                d = 1 - f[i] @ f[a].T  # (P of i, P of a)
                d = torch.where(masks[a], d, OUTSIDE)
                distance[i, a], nearest[i, a] = d.min(-1)
    own = torch.eye(images, n_anchors, dtype=torch.bool, device=f.device)[..., None]
    among_others = distance.masked_fill(own, torch.inf)
    best, anchor = among_others.min(1)  # (B, P)
    source = anchor * patches + nearest.gather(1, anchor[:, None]).squeeze(1)
    gate = masks & (best < otsu(best)[:, None]) & torch.isfinite(best)
    return Correspondences(nearest, distance, source, gate)


def normalised(features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(B, C, h, w) -> (B, P, C): smoothed by a 3×3 Gaussian of sigma 1, resized to `size`, unit length."""
    f = features.float()
    x = torch.arange(-1, 2, device=f.device, dtype=f.dtype)
    line = torch.exp(-(x**2) / 2)
    line = line / line.sum()
    kernel = (line[:, None] * line).expand(f.shape[1], 1, 3, 3)
    f = F.conv2d(f, kernel, padding=1, groups=f.shape[1])
    if f.shape[-2:] != size:
        f = F.interpolate(f, size=size, mode="bilinear", align_corners=False)
    return F.normalize(f, dim=1).flatten(2).transpose(1, 2)
