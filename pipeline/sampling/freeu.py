"""FreeU (arXiv 2309.11497) for the length of a run."""

from contextlib import contextmanager

from svdstory.pipeline.config.methods import FreeU
from svdstory.pipeline.sampling.layers import inner_unet

SCALES = ("s1", "s2", "b1", "b2")


@contextmanager
def freeu(unet, settings: FreeU | None):
    """FreeU as diffusers gives it, or none; what was set before on exit."""
    unet = inner_unet(unet)
    before = [{name: getattr(block, name, None) for name in SCALES} for block in unet.up_blocks]
    try:
        if settings is None:
            unet.disable_freeu()
        else:
            unet.enable_freeu(**settings.model_dump())
        yield
    finally:
        for block, values in zip(unet.up_blocks, before):
            for name, value in values.items():
                setattr(block, name, value)
