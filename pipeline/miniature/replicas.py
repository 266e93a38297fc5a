"""Trains one module on several CPU threads, each with its own part of the batch.

Threads inside an operator meet thousands of times a step, and on a machine that is busy with other work each meeting
waits for whoever was put aside. Here every thread works through its part alone, and they meet once a step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import nn


class Replicas:
    """`module` and count - 1 twins that share its weights and have gradients of their own."""

    def __init__(self, module: nn.Module, count: int):
        self.modules = [module, *(_twin(module) for _ in range(count - 1))]
        self.threads = None
        if count > 1:  # one more than replicas, for what runs beside them
            self.threads = ThreadPoolExecutor(count + 1, initializer=torch.set_num_threads, initargs=(1,))

    def later(self, task: Callable[[], Any]) -> Future:
        """Run `task` beside the replicas, or at once where there is one only."""
        if self.threads:
            return self.threads.submit(task)
        done: Future = Future()
        done.set_result(task())
        return done

    def backward(self, losses: list[Callable[[nn.Module], tuple[torch.Tensor, torch.Tensor]]]) -> torch.Tensor:
        """One loss a replica; leaves the mean gradient in `module` and returns the mean of the losses' second values.

        Each loss is a function of the module and returns (what to minimise, what to report).
        """
        for module in self.modules:
            module.zero_grad(set_to_none=True)
        running = [self.later(lambda pair=pair: self._one(*pair)) for pair in zip(self.modules, losses)]
        reports = [one.result() for one in running]
        first, *others = self.modules
        for parameters in zip(first.parameters(), *(other.parameters() for other in others)):
            for parameter in parameters[1:]:
                if parameter.grad is not None:
                    parameters[0].grad += parameter.grad
        return torch.stack(reports).mean()

    def _one(self, module: nn.Module, loss: Callable[[nn.Module], tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        minimised, reported = loss(module)
        (minimised / len(self.modules)).backward()
        return reported.detach()


def _twin(module: nn.Module) -> nn.Module:
    twin = copy.deepcopy(module)
    for own, shared in zip(twin.parameters(), module.parameters()):
        own.data = shared.data
    return twin
