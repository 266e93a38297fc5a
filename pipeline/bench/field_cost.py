"""`svdstory bench field`: what each paper's method costs, in rows through the UNet (exact) and in seconds.

A row is one image's one half of guidance in one UNet call: plain SDXL takes two for each image and step. Rows are
counted by a hook on the UNet, not by formula. Joined keys and values cost time and no rows: hence both columns.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from svdstory.pipeline.bench.record import clock
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.prompt_files import find_sets
from svdstory.pipeline.generation import generate
from svdstory.pipeline.models.load import load_model
from svdstory.pipeline.sampling.layers import inner_unet

METHODS = (
    "sdxl",
    "consistory",
    "consistory-no-injection",
    "unmasked-no-injection",
    "svd-fraction-0.05",
    "svd-fraction-0.05-no-injection",
    "svd-log-no-injection",
    "storydiffusion",
    "storydiffusion-svd",
    "oneprompt",
    "oneprompt-svr-eot",
    "oneprompt-svd",
    "style-aligned",
)
BESIDE = "consistory"
REPEATS = 2


def bench_field(model: str, prompts: str, steps: int, device: str, methods: tuple[str, ...] = METHODS) -> list[dict]:
    """Rows: method; UNet calls and rows of a set; rows an image and step; seconds of a set, the least of REPEATS, and
    how many times ConsiStory's."""
    loaded, [chosen] = load_model(model, device), find_sets(prompts)
    places, found = len(chosen.settings) * steps, {}
    for name in dict.fromkeys((BESIDE, *methods)):
        seconds = []
        for _ in range(REPEATS):
            with counted(loaded.pipe.unet) as calls:
                before = clock(device)
                generate(loaded, chosen, named(name), steps=steps, guidance=3.0)
                seconds.append(clock(device) - before)
        rows = sum(calls)
        found[name] = {
            "UNet calls": len(calls),
            "rows": rows,
            "rows an image and step": rows / places,
            "s": min(seconds),
        }
        print(f"{name}: {rows} rows, {min(seconds):.3g} s", flush=True)
    base = found[BESIDE]["s"]
    return [{"method": name, **found[name], f"of {BESIDE}'s s": found[name]["s"] / base} for name in methods]


@contextmanager
def counted(unet) -> Iterator[list[int]]:
    """The rows of each call of the UNet, as they come."""
    calls: list[int] = []

    def count(module, arguments, named_arguments) -> None:
        sample = arguments[0] if arguments else named_arguments["sample"]
        calls.append(len(sample))

    hook = inner_unet(unet).register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()
