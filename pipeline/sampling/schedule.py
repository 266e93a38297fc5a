"""A pass's schedule: the scheduler's steps, and where each lies on the schedule that SDXL was trained with."""

import copy

import torch
from torch import Tensor

BETAS = 0.00085, 0.012, 1000  # SDXL's: the squares of numbers that grow linearly, and how many timesteps


def begun(scheduler, steps: int):
    """A copy of the scheduler that is set to `steps` steps: a pass doesn't change the caller's."""
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps)
    return scheduler


def timesteps_of(scheduler) -> Tensor:
    """(n,) the timestep, of 0 to 999, of each UNet call; n is more than the steps where a step takes two calls.

    EDM's schedulers (arXiv 2206.00364) name a call not by its timestep but by ln(sigma) / 4: there it is the timestep
    at which SDXL's own noise has the same level, sigma = sqrt((1 - alpha_bar) / alpha_bar).
    """
    if not type(scheduler).__name__.startswith("EDM"):
        return scheduler.timesteps
    low, high, count = BETAS
    alpha_bar = (1 - torch.linspace(low**0.5, high**0.5, count, dtype=torch.float64) ** 2).cumprod(0)
    known = ((1 - alpha_bar) / alpha_bar).sqrt().log()  # (1000,) ln sigma, growing
    asked = 4 * scheduler.timesteps.double()
    return (asked[:, None] - known).abs().argmin(1)
