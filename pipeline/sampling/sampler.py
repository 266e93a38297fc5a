"""The sampler: a set of images denoised together, with every switch of a Method.

It runs on the stock components of a StableDiffusionXLPipeline through attention processors and hooks alone, and
puts everything back on exit. B images, C channels, H × W latents.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from svdstory.pipeline.config.methods import Method, check_images
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.sampling.call import Stage
from svdstory.pipeline.sampling.denoiser import Conditioning, Denoiser, make_denoiser
from svdstory.pipeline.sampling.families import family_of, processor_of
from svdstory.pipeline.sampling.family import Pass
from svdstory.pipeline.sampling.freeu import freeu
from svdstory.pipeline.sampling.injection import Correspondences, correspond
from svdstory.pipeline.sampling.layers import attention_layers, execution_device, processors_on, shared_ratios
from svdstory.pipeline.sampling.masks import SubjectMasks
from svdstory.pipeline.sampling.noise import Draws
from svdstory.pipeline.sampling.replay import replaying, trajectory
from svdstory.pipeline.sampling.schedule import begun, timesteps_of
from svdstory.pipeline.spectral.bank import SpectralBank
from svdstory.pipeline.spectral.recorder import SpectraRecorder


@dataclass(frozen=True)
class Step:
    """One finished step, as `on_step` sees it. noise_pred is after guidance, latents after the scheduler's step. Latents
    that `on_step` returns take their place."""

    pass_index: int
    step: int
    steps: int
    noise_pred: Tensor
    latents: Tensor
    timestep: Tensor | None = None  # as the scheduler calls it


@dataclass(frozen=True)
class Sample:
    """latents (B, C, H, W) float32; masks (B, H/2 · W/2) bool, the final undropped subject masks; counters of the
    spectral filter, over both passes if there are two; with feature injection the first pass and its correspondences;
    the DIFT features it kept; reference_masks (R, H/2 · W/2), of the pictures. Correspondences and features have rows
    for the pictures too, before the images'."""

    latents: Tensor
    masks: Tensor
    counters: dict[str, int]
    first_pass: "Sample | None" = None
    correspondences: Correspondences | None = None
    features: Tensor | None = None
    reference_masks: Tensor | None = None


@torch.no_grad()
def sample(
    unet,
    scheduler,
    conditioning: Conditioning,
    method: Method,
    *,
    seed: int,
    steps: int,
    guidance: float,
    latents: Tensor,
    micro_batch: int | None = None,
    exact_filter: bool = False,
    spectra: SpectraRecorder | None = None,
    draws: Draws | None = None,
    pictures: Tensor | None = None,
    on_step: Callable[[Step], Tensor | None] = lambda step: None,
) -> Sample:
    """Denoise `latents` (B, C, H, W), standard normal, into a set of images of one subject.

    `unet`: as it is, compiled or PEFT-wrapped. `micro_batch`: images per UNet call besides the anchors (None: all);
    less takes less memory and gives the same images, up to float rounding. Guidance of 1 or less runs without the
    uncond half. `exact_filter`: spectral filters decompose every matrix in float64; otherwise large ones are filtered
    within TOLERANCE (methods.py), many times faster. `spectra` records the anchors' singular values. `draws`: instead
    of those of `seed`. `pictures`: latents x0 (R, C, H, W) of the set's references, the first R rows of `conditioning`,
    which are then the only anchors (replay.py). FreeU is the method's, whatever the caller has set on the UNet. Raises
    InputError where the set and the method don't fit, or the UNet has no layers that a method could act on.
    """
    draws, path = draws or Draws(seed), None
    if pictures is not None:
        method = method.with_references(len(pictures))
        with freeu(unet, None):
            path = trajectory(unet, scheduler, conditioning, pictures.float(), method, steps, draws)
    check(method, len(conditioning), latents.shape[-2:])
    settings = dict(draws=draws, steps=steps, guidance=guidance, micro_batch=micro_batch, path=path)
    settings |= dict(exact=exact_filter, spectra=spectra, on_step=on_step)
    with freeu(unet, method.freeu):
        first = accepted_pass(unet, scheduler, conditioning, method, latents, **settings)
        if not method.feature_injection:
            return first
        size = latents.shape[-2] // 2, latents.shape[-1] // 2
        masks = torch.cat([first.reference_masks, first.masks])
        matches = correspond(first.features, masks, size, method.n_anchors)
        second = accepted_pass(unet, scheduler, conditioning, method, latents, **settings, matches=matches)
    counters = {name: total + second.counters[name] for name, total in first.counters.items()}
    return replace(second, counters=counters, first_pass=first, correspondences=matches)


def accepted_pass(unet, scheduler, conditioning: Conditioning, method: Method, latents: Tensor, *, exact, **settings):
    """`one_pass`, made again where its filters turn out not to have held their tolerance."""
    bank = SpectralBank(method.filter_k, method.filter_v, exact=exact)
    while True:
        made = one_pass(unet, scheduler, conditioning, method, latents, bank=bank, **settings)
        if bank.accepted():
            return replace(made, counters=bank.counters())


def one_pass(
    unet,
    scheduler,
    conditioning: Conditioning,
    method: Method,
    latents: Tensor,
    *,
    draws: Draws,
    steps: int,
    guidance: float,
    micro_batch: int | None,
    bank: SpectralBank,
    spectra: SpectraRecorder | None,
    on_step: Callable[[Step], Tensor | None],
    path: Tensor | None,
    matches: Correspondences | None = None,
) -> Sample:
    """One pass over the schedule: without `matches` the first, with them the second."""
    scheduler, device, size = begun(scheduler, steps), execution_device(unet), latents.shape[-2:]
    layers = attention_layers(unet)
    masks = SubjectMasks(conditioning.subject_tokens, *size, device, shared_ratios(layers))
    shared = layers, timesteps_of(scheduler), draws, Stage(), masks, bank, spectra, conditioning.identity_tokens
    run = Pass(method, unet, *shared, matches)
    family = family_of(run)

    def report(step: int, noise_pred: Tensor, latents: Tensor) -> Tensor:
        changed = on_step(
            Step(0 if matches is None else 1, step, steps, noise_pred, latents, scheduler.timesteps[step])
        )
        return latents if changed is None else changed.to(latents)

    with processors_on(layers, processor_of(family)):
        denoiser = make_denoiser(unet, scheduler, family, conditioning, guidance, micro_batch)
        denoiser = denoiser if path is None else replaying(denoiser, path)
        latents = latents.to(device, torch.float32) * scheduler.init_noise_sigma
        latents = denoise(denoiser, scheduler, latents, draws, report)
    features = torch.cat(family.features) if family.features else None
    shown, found = len(conditioning) - len(latents), masks.masks()[size[0] * size[1] // 4]
    return Sample(latents, found[shown:], bank.counters(), features=features, reference_masks=found[:shown])


def denoise(
    denoiser: Denoiser, scheduler, latents: Tensor, draws: Draws, report: Callable[[int, Tensor, Tensor], Tensor]
) -> Tensor:
    """The denoising loop: from noise to latents, along the scheduler's timesteps."""
    stochastic = "generator" in inspect.signature(scheduler.step).parameters
    for step, t in enumerate(scheduler.timesteps):
        noise_pred = denoiser(latents, step)
        own = {"generator": [draws.scheduler(i, step) for i in range(len(latents))]} if stochastic else {}
        latents = scheduler.step(noise_pred, t, latents, **own).prev_sample
        latents = report(step, noise_pred, latents)
    return latents


def check(method: Method, images: int, latent_size: tuple[int, int]) -> None:
    """Raises InputError where the number of images or the size doesn't fit the method."""
    check_images(method, images)
    if any(side % 8 for side in latent_size):
        raise InputError(
            f"latents of {latent_size[0]}×{latent_size[1]}: both sides must be multiples of 8 "
            "(SDXL: a size in pixels that is a multiple of 64)."
        )
