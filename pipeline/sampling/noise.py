"""Everything random, from generators of its own: the same on every machine, and never the global generator."""

import hashlib
from dataclasses import dataclass

import torch


def generator(*purpose) -> torch.Generator:
    """A CPU generator seeded by what the numbers are for, e.g. ("mask_dropout", set seed, image, step)."""
    seed = hashlib.sha256(repr(purpose).encode()).digest()[:8]
    return torch.Generator("cpu").manual_seed(int.from_bytes(seed, "little") >> 1)


def initial_latents(seed: int, images: int, shape: tuple[int, int, int], same_latent: bool = False) -> torch.Tensor:
    """(B, C, H, W) standard normal, float32. Image i's noise depends on (seed, i) alone.

    `same_latent`: every image starts from image 0's noise.
    """
    return torch.stack(
        [torch.randn(shape, generator=generator("latents", seed, 0 if same_latent else i)) for i in range(images)]
    )


@dataclass(frozen=True)
class Draws:
    """What a set's sampling draws, by what the numbers are for: the same whatever the calls and their order.

    Recorded numbers can be fed in by a class with the same methods.
    """

    seed: int

    def mask_dropout(self, image: int, step: int, tokens: int) -> torch.Tensor:
        """(T,) uniform numbers in [0, 1) for one image at one step and resolution."""
        return torch.rand(tokens, generator=generator("mask_dropout", self.seed, image, step, tokens))

    def reference(self, step: int, layer: int, images: int) -> int:
        """The image that one self-attention layer refers to at one step (`reference: random`)."""
        return int(torch.randint(images, (), generator=generator("reference", self.seed, step, layer)))

    def replay(self, picture: int, step: int, shape) -> torch.Tensor:
        """(C, H, W) standard normal: what a reference picture is noised with at one step."""
        return torch.randn(tuple(shape), generator=generator("replay", self.seed, picture, step))

    def scheduler(self, image: int, step: int) -> torch.Generator:
        """For the noise that some schedulers add."""
        return generator("scheduler", self.seed, image, step)

    def tokens(self, image: int, step: int, tokens: int) -> torch.Tensor:
        """(T,) uniform numbers in [0, 1): which of an identity image's tokens the others see (StoryDiffusion)."""
        return torch.rand(tokens, generator=generator("tokens", self.seed, image, step, tokens))

    def gate(self, step: int, layer: int) -> float:
        """Uniform in [0, 1): whether a layer shares at a step; layers counted from 0 in up_blocks (StoryDiffusion)."""
        return float(torch.rand((), generator=generator("gate", self.seed, step, layer)))

    def identity_keys(self, image: int, step: int, layer: str, queries: int, keys: int) -> torch.Tensor:
        """(T, S) uniform numbers in [0, 1): which identity key each token of an image sees twice (One-Prompt-One-Story)."""
        return torch.rand(queries, keys, generator=generator("identity_keys", self.seed, image, step, layer))
