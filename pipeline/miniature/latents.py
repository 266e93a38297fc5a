"""A pool of encoded pictures: each is rendered and encoded once and trained on a few times with fresh noise."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL

from svdstory.pipeline.miniature.stream import batches, pixels
from svdstory.pipeline.miniature.world import caption

REUSE = 4  # times that a picture is drawn from the pool, on average, before it has been replaced


class LatentPool:
    """Holds up to `capacity` latents (4, h, w) with their captions; every batch brings in new ones for old ones."""

    def __init__(
        self,
        vae: AutoencoderKL,
        device: torch.device,
        batch: int,
        first: int,
        workers: int,
        seed: int,
        capacity: int = 8192,
    ):
        self.vae, self.device, self.batch, self.capacity = vae, device, batch, capacity
        self.rendered = first
        self.source = batches("unet", max(1, batch // REUSE), first=first, workers=workers)
        self.generator = torch.Generator().manual_seed(seed)
        self.latents: list[torch.Tensor] = []
        self.captions: list[str] = []
        while len(self.latents) < 16 * batch:
            self._renew()

    @torch.no_grad()
    def _renew(self) -> None:
        pictures = next(self.source)
        encoded = self.vae.encode(pixels(pictures).to(self.device)).latent_dist.mode()
        for latent, one in zip(encoded, pictures):
            if len(self.latents) < self.capacity:
                self.latents.append(latent)
                self.captions.append(caption(one.view))
            else:
                slot = self.rendered % self.capacity
                self.latents[slot], self.captions[slot] = latent, caption(one.view)
            self.rendered += 1

    def draw(self) -> tuple[torch.Tensor, list[str]]:
        """Latents (B, 4, h, w) and their B captions, at random from the renewed pool."""
        self._renew()
        picks = torch.randint(len(self.latents), (self.batch,), generator=self.generator).tolist()
        return torch.stack([self.latents[pick] for pick in picks]), [self.captions[pick] for pick in picks]
