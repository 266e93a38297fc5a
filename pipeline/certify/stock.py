"""Plain sampling here against the stock pipeline's own loop, from the same noise."""

import torch
from torch import Tensor

from svdstory.pipeline.certify.line import Line, Number
from svdstory.pipeline.certify.specimen import GUIDANCE, IMAGES, PLAIN, SEED, Specimen
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.generation import latent_shape, make_scheduler
from svdstory.pipeline.sampling.noise import initial_latents


def stock(specimen: Specimen) -> Line:
    """The latents of method `sdxl` against those of diffusers' StableDiffusionXLPipeline with the same FreeU."""
    ours, theirs = specimen.draw(PLAIN).made.sample.latents, by_the_pipeline(specimen)
    return Line(
        "plain sampling is the stock diffusers pipeline's, from the same noise",
        [Number("relative difference of the final latents", relative(ours, theirs), most=specimen.rounding)],
        f"{IMAGES} images, {specimen.steps} steps of DDIM, guidance {GUIDANCE:g}, FreeU on both sides",
    )


@torch.no_grad()
def by_the_pipeline(specimen: Specimen) -> Tensor:
    """(B, C, H, W): what the stock loop makes of the set. The pipeline is left as it was."""
    pipe, freeu, (width, height) = specimen.model.pipe, named(PLAIN).freeu, specimen.spec.size
    noise, own = initial_latents(SEED, IMAGES, latent_shape(pipe, width, height)), pipe.scheduler
    settings = dict(num_inference_steps=specimen.steps, guidance_scale=GUIDANCE, width=width, height=height)
    pipe.scheduler = make_scheduler("ddim", own)
    pipe.enable_freeu(s1=freeu.s1, s2=freeu.s2, b1=freeu.b1, b2=freeu.b2)
    try:
        noise = noise.to(specimen.model.device, pipe.unet.dtype)
        return pipe(specimen.prompts.prompts, latents=noise, output_type="latent", **settings).images
    finally:
        pipe.disable_freeu()
        pipe.scheduler = own


def relative(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b||, in float64."""
    return float((a.double() - b.double()).norm() / b.double().norm())
