"""Peak memory against the formula by which micro-batches are chosen."""

import torch

from svdstory.pipeline.bench import full_size
from svdstory.pipeline.bench.peak_memory import GIB, activations
from svdstory.pipeline.certify.line import Line, Number
from svdstory.pipeline.certify.specimen import CONSISTORY, FILTERED, IMAGES, PLAIN, Specimen
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.models import memory

CLAIM = "peak memory is what the formula says, by which micro-batches are chosen"
BOUNDS = 0.75, 1.15  # measured in what was predicted; more would run out of memory, less would waste the card
SIDE = 1024


def formula(specimen: Specimen) -> Line:
    """On a GPU what CUDA's allocator says of the pictures that were drawn; on a CPU SDXL's tensors, counted."""
    if specimen.place.type != "cuda":
        return counted()
    if not memory.applies(specimen.spec):
        return Line(
            CLAIM, words=f"not measured here: the formula speaks of SDXL in float16, not of {specimen.spec.name}"
        )
    return allocated(specimen)


def allocated(specimen: Specimen) -> Line:
    """By the allocator: all of the pipeline is on the card, CUDA's context is not counted."""
    numbers = []
    for name in (PLAIN, CONSISTORY, *FILTERED):
        drawn = specimen.draw(name)
        predicted = memory.peak_gib(named(name), IMAGES, specimen.spec.size, drawn.micro_batch) - memory.CONTEXT
        told = f"{name}: {drawn.peak / GIB:.2f} GiB of {predicted:.2f} predicted"
        numbers.append(Number(told, drawn.peak / GIB / predicted, *BOUNDS))
    return Line(CLAIM, numbers, "by CUDA's allocator, while sampling and decoding")


def counted() -> Line:
    """Without a GPU: every storage of a full-size UNet on the meta device, followed from its making to its end."""
    unet, method = full_size.sdxl_unet("meta", torch.float16), named(CONSISTORY)
    size, weights = (SIDE, SIDE), sum(weight.numel() * weight.element_size() for weight in unet.parameters())
    peak = (weights + activations(unet, method, IMAGES, SIDE, None)) / GIB
    predicted = memory.WEIGHTS + memory.sampling_gib(method, IMAGES, size, None)
    told = f"{CONSISTORY}: {peak:.2f} GiB of {predicted:.2f} predicted"
    return Line(
        CLAIM,
        [Number(told, peak / predicted, *BOUNDS)],
        f"no GPU here: counted, not measured, for SDXL's UNet at {SIDE} px in float16, {IMAGES} images at once",
    )
