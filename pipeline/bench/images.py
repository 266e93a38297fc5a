"""`svdstory bench images`: time and peak memory of one set against its number of images, at a fixed micro-batch.

Each size runs in a process of its own; time is CPU time, memory what the process ever held beyond the loaded model.
"""

import multiprocessing
import resource
import time

from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.prompt_sets import PromptSet

SETTINGS = tuple(f"in room {n}" for n in range(1, 100))


def bench_images(counts: list[int], method: str, micro_batch: int, model: str, side: int, steps: int) -> list[dict]:
    """Rows: images, CPU seconds, seconds an image, peak MiB beyond the loaded model."""
    context, rows = multiprocessing.get_context("spawn"), []
    for count in counts:
        with context.Pool(1) as pool:
            seconds, peak = pool.apply(_measure, (count, method, micro_batch, model, side, steps))
        rows.append(
            {
                "method": method,
                "images": count,
                "micro-batch": micro_batch,
                "CPU s": seconds,
                "CPU s an image": seconds / count,
                "peak MiB": peak,
            }
        )
        print(
            "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()), flush=True
        )
    return rows


def _measure(count: int, method: str, micro_batch: int, model: str, side: int, steps: int) -> tuple[float, float]:
    import torch

    from svdstory.pipeline.generation import generate
    from svdstory.pipeline.models.load import load_model

    torch.set_num_threads(1)
    loaded = load_model(model, device="cpu")
    prompts = PromptSet(style="A photo of", subject="a red fox", concept=("fox",), settings=SETTINGS[:count])
    generate(loaded, prompts, named("sdxl"), size=(64, 64), steps=1)  # what the first call loads is not counted
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    generate(loaded, prompts, named(method), size=(side, side), steps=steps, micro_batch=micro_batch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return time.process_time() - began, peak / 1024
