"""Muon: momentum whose matrices are orthogonalised before each step (Jordan et al. 2024), beside AdamW for the rest.

With few samples it needs about two thirds of AdamW's steps. The orthogonalisation runs on the Gram matrix, which is
a quarter of the usual Newton-Schulz cost for wide matrices; updates are scaled to AdamW's size (Liu et al. 2025), so
that both share one learning rate.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import nn

QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrices: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """(N, R, C) -> the same with all singular values near 1, R <= C. Newton-Schulz, quintic, on the Gram matrix."""
    a, b, c = QUINTIC
    scaled = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-8)
    gram = scaled @ scaled.mT
    unit = torch.eye(gram.shape[-1], device=gram.device)
    whole = unit.expand_as(gram)
    for _ in range(iterations):
        step = a * unit + b * gram + c * (gram @ gram)
        whole = step @ whole
        gram = step @ gram @ step
    return whole @ scaled


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, for parameters of two or more dimensions (the first is the output)."""

    def __init__(self, parameters, lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[tuple[nn.Parameter, torch.Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                moment = state.setdefault("moment", torch.zeros_like(parameter))
                moment.lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(moment, group["momentum"]).flatten(1)
                by_shape[tuple(update.shape)].append((parameter, update))
            for (rows, columns), pairs in by_shape.items():
                stack = torch.stack([update for _, update in pairs])
                stack = orthogonalised(stack.mT).mT if rows > columns else orthogonalised(stack)
                size = group["lr"] * 0.2 * max(rows, columns) ** 0.5
                for (parameter, _), update in zip(pairs, stack):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(update.reshape(parameter.shape), alpha=size)
