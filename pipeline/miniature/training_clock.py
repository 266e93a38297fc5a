"""The clock of a training phase, its learning rate, and checkpoints that a kill cannot break."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclass
class Clock:
    """How far a phase is within its wall-clock budget. `spent`: seconds before this process took over."""

    budget: float
    spent: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return self.spent + time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """0..1 of the budget."""
        return min(1.0, self.seconds / self.budget) if self.budget > 0 else 1.0


def learning_rate(peak: float, step: int, progress: float, warm_up: int = 100, flat: float = 0.45) -> float:
    """Warm-up over steps since the (re)start, flat, then linear to 2% at the end of the budget."""
    fade = 1.0 if progress <= flat else 1.0 - 0.98 * (progress - flat) / (1.0 - flat)
    return peak * min(1.0, (step + 1) / warm_up) * fade


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint so that `path` always holds a whole one, whatever is killed when, and whoever else trains."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # pids are the same in two containers
    try:
        with open(partial, "xb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The checkpoint at `path`, or None if training has not begun. Loads tensors and plain numbers only."""
    return torch.load(path, map_location=device, weights_only=True) if path.exists() else None


class Log:
    """One line an event, on the screen and appended to a file."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, line: str) -> None:
        stamped = f"{time.strftime('%H:%M:%S')} {line}"
        print(stamped, flush=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(stamped + "\n")


@contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Modules built in here start from the same weights every time; the global generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def device_of(module: nn.Module) -> torch.device:
    """The device a module's parameters are on."""
    return next(module.parameters()).device
