"""Random weights in the true architecture, where there are no real ones. Seeded, without the global generator."""

import hashlib

import torch
from torch import nn


@torch.no_grad()
def fill_randomly(model: nn.Module, seed: int = 0) -> None:
    """Give every parameter of `model` random values that depend on its name, shape and `seed` alone.

    Matrices and embeddings are normal with variance 1/fan-in, norms are the identity, biases zero: activations keep
    their scale, so that different images get different embeddings.
    """
    for name, parameter in model.named_parameters():
        parameter.copy_(random_tensor(name, parameter.shape, seed))


def random_tensor(name: str, shape: torch.Size | tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """The values of one parameter: float32 of `shape`."""
    if len(shape) < 2:
        if name.endswith("bias") or len(shape) == 0:
            return torch.zeros(shape)
        if name.endswith("weight"):  # of a norm
            return torch.ones(shape)
    digest = hashlib.sha256(f"{seed} {name} {tuple(shape)}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    fan_in = max(1, torch.Size(shape[1:]).numel())
    return torch.randn(shape, generator=generator) * fan_in**-0.5
