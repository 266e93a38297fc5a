"""Training data made on the fly: an endless, seeded stream of rendered views.

Picture number n of a stream depends on (seed, n) alone, not on workers or on where training was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from svdstory.pipeline.miniature.world import Picture, draw_view, render

# Streams never share a picture: each purpose has its own first seed.
SEEDS = {"vae": 11, "unet": 12, "judge": 13, "clip": 14, "held out": 99}
# Accessories are the hardest to learn and come in eight kinds: the UNet sees them more often than half the time.
ACCESSORISED = {"unet": 0.7}
BARE = 8  # one picture in so many of the judge's shows a scene without a subject


def picture(purpose: str, number: int) -> Picture:
    """Picture `number` of the stream for `purpose` (a key of SEEDS)."""
    bare = purpose == "judge" and number % BARE == 0
    rng = np.random.default_rng((SEEDS[purpose], number))
    share = ACCESSORISED.get(purpose, 0.5)
    return render(draw_view(rng, accessorised=share), subject=not bare)


def bare_scene(number: int) -> Picture:
    """A held-out scene without a subject."""
    return render(draw_view(np.random.default_rng((SEEDS["held out"], number))), subject=False)


def pixels(pictures: list[Picture]) -> torch.Tensor:
    """Pictures -> float (B, 3, H, W) in -1..1."""
    stacked = torch.from_numpy(np.stack([one.image for one in pictures]))
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1.0


class _Stream(IterableDataset):
    def __init__(self, purpose: str, first: int, batch: int):
        self.purpose, self.first, self.batch = purpose, first, batch

    def __iter__(self) -> Iterator[list[Picture]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        block = number
        while True:
            start = self.first + block * self.batch
            yield [picture(self.purpose, start + offset) for offset in range(self.batch)]
            block += workers


def batches(purpose: str, batch: int, first: int = 0, workers: int = 0) -> Iterator[list[Picture]]:
    """Endless batches of pictures from number `first` on; `workers` processes render (0: this one)."""
    return iter(DataLoader(_Stream(purpose, first, batch), batch_size=None, num_workers=workers))
