"""`svdstory bench tuning`: what an update of each way of tuning costs on a device, and the whole recipe by it."""

import time

import torch

from svdstory.pipeline.bench.record import clock
from svdstory.pipeline.config.tuning import KINDS, Recipe
from svdstory.pipeline.models.load import load_model
from svdstory.pipeline.personal.examples import Examples
from svdstory.pipeline.personal.training import Checkpoints, tune

PICTURES = 4


def bench_tuning(model: str, device: str, updates: int, kinds: tuple[str, ...] = KINDS) -> list[dict]:
    """Rows: kind; numbers that are trained; rows of an update; seconds of one, without the first; minutes of the model's
    recipe; peak memory of a GPU. The pictures are noise: their content costs nothing else."""
    loaded, rows = load_model(model, device), []
    pipe, (width, height) = loaded.pipe, loaded.spec.size
    shape = pipe.unet.config.in_channels, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor
    for kind in kinds:
        recipe = Recipe(kind=kind).resolved(loaded.spec.tuning, loaded.spec.name)
        few = recipe.model_copy(update={"updates": updates + 1})
        prompts = tuple(f"A photo of a {recipe.word} in the snow" for _ in range(PICTURES))
        examples = [Examples(torch.randn(PICTURES, *shape), prompts)] * (2 if recipe.prior_weight else 1)
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(device)
        times: list[float] = []

        def each(update: int, state: dict, times=times) -> None:
            times.append(clock(device))

        at = Checkpoints(keep=each, every_s=0.0, now=time.monotonic)
        made = tune(loaded, examples, few, "bench", initial="photo", checkpoints=at)
        seconds = (times[-1] - times[0]) / updates
        row = {"tuning": kind, "trained": made.parameters, "rows an update": recipe.pictures * len(examples)}
        row |= {"s an update": seconds, "updates": recipe.updates, "min": seconds * recipe.updates / 60}
        if device.startswith("cuda"):
            row["peak GiB"] = torch.cuda.max_memory_allocated(device) / 2**30
        rows.append(row)
        print(f"{kind}: {seconds:.3g} s an update", flush=True)
    return rows
