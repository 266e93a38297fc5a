"""ConsiStory, squared log and clip on one set, beside plain SDXL: pictures, and what can be told of them by numbers."""

import numpy as np

from svdstory.pipeline.certify.known import known_sketches, sketch
from svdstory.pipeline.certify.line import Line, Number
from svdstory.pipeline.certify.specimen import CONSISTORY, FILTERED, PLAIN, SEED, Drawn, Specimen
from svdstory.pipeline.certify.stock import relative

CHANGE = 0.5  # of 255, mean over the pixels: a method that changes less than this does nothing
APART = 0.1  # two filters whose pictures are as good as the same: nobody looks at what they filtered
SPREAD = (0.3, 3.0)  # a picture's standard deviation in that of plain SDXL's: flat grey and noise lie outside
SUBJECT = (0.005, 0.98)  # share of the picture in ConsiStory's subject masks: they have found something, not all


def drawings(specimen: Specimen) -> Line:
    """Pictures of each method. Numbers: how far they are from plain SDXL's, their contrast, the subject masks' share,
    and where they are known, the final latents' distance from what they must be."""
    drawn = {name: specimen.draw(name) for name in (PLAIN, CONSISTORY, *FILTERED)}
    plain, numbers = pixels(drawn[PLAIN]), []
    for name, one in drawn.items():
        own = pixels(one)
        if name != PLAIN:
            change, contrast = float(np.abs(own - plain).mean()), float(own.std() / plain.std())
            numbers.append(Number(f"{name}: mean change from {PLAIN}, of 255", change, CHANGE))
            numbers.append(Number(f"{name}: contrast in that of {PLAIN}", contrast, *SPREAD))
        if name == CONSISTORY:
            share = one.made.sample.masks.double().mean().item()
            numbers.append(Number(f"{name}: share of the subject masks", share, *SUBJECT))
        if (known := known_sketches(specimen).get(name)) is not None:
            distance = relative(sketch(one.made.sample.latents), known)
            numbers.append(Number(f"{name}: distance from the known latents", distance, most=tolerance(specimen)))
    apart = float(np.abs(np.subtract(*(pixels(drawn[name]) for name in FILTERED))).mean())
    numbers.append(Number(f"mean change from {FILTERED[0]} to {FILTERED[1]}, of 255", apart, APART))
    return Line(
        "ConsiStory, squared log and clip draw the set, each in its own way",
        numbers,
        f"{specimen.prompts.prompts[0]} (and {len(plain) - 1} more), seed {SEED}, {specimen.steps} steps. "
        "Look at them: a row is one subject",
        pictures={name: one.made.images for name, one in drawn.items()},
    )


def tolerance(specimen: Specimen) -> float:
    """How far from known latents another machine may be: rounding, and the tolerance of the filters' fast paths."""
    return max(specimen.rounding, 5e-3)


def pixels(drawn: Drawn) -> np.ndarray:
    """(B, H, W, 3) float64."""
    return np.stack([np.asarray(image, dtype=float) for image in drawn.made.images])
