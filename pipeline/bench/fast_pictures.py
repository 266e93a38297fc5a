"""`svdstory bench pictures`: what the fast filter paths change in pictures of a model with trained weights."""

from unittest.mock import patch

import numpy as np

from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.prompt_files import find_sets
from svdstory.pipeline.generation import generate
from svdstory.pipeline.models.load import load_model
from svdstory.pipeline.spectral import bank as spectral_bank

FILTERS = ("fraction-0.05", "fraction-0.1", "energy-0.95", "log-fraction", "exp", "log", "log2", "clip-2", "power-0.5")
METHODS = tuple(
    f"svd-{name}-no-injection" for name in FILTERS
)  # in one pass nothing else reacts to what a filter changes
SETS = ("world-gift-box", "world-cat")
SMALLEST = 16  # the miniature's matrices have ranks of 48 and 96: studies would decompose all of them exactly


def bench_pictures(
    model_name: str = "miniature",
    methods: tuple[str, ...] = METHODS,
    sets: tuple[str, ...] = SETS,
    steps: int = 20,
    device: str = "cpu",
) -> list[dict]:
    """Rows: set × method, exact against fast from the same seed: relative difference of the final latents, largest
    change of a pixel (of 255), PSNR in dB, and how many matrices took which path."""
    model, rows = load_model(model_name, device), []
    for name in sets:
        (prompts,) = find_sets(name)
        for method in methods:

            def drawn(exact: bool):
                return generate(model, prompts, named(method), seed=0, steps=steps, guidance=3.0, exact_filter=exact)

            exact = drawn(True)
            with patch.object(spectral_bank, "SMALLEST", SMALLEST):
                fast = drawn(False)
            pixels, others = (np.stack([np.asarray(image, float) for image in made.images]) for made in (exact, fast))
            error = np.mean((pixels - others) ** 2)
            latents = exact.sample.latents
            rows.append(
                {
                    "set": name,
                    "method": method,
                    "latents, relative": float((fast.sample.latents - latents).norm() / latents.norm()),
                    "largest pixel change": int(np.abs(pixels - others).max()),
                    "PSNR dB": float(10 * np.log10(255**2 / error)) if error else float("inf"),
                    **{key: fast.counters[key] for key in ("matrices", "exact", "fallbacks")},
                }
            )
            print(
                "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()),
                flush=True,
            )
    return rows
