"""The sampler: a set of images denoised together, with every switch of a Method.

It runs on the stock components of a StableDiffusionXLPipeline through attention processors and hooks alone, and
puts everything back on exit. B images, C channels, H × W latents, L prompt tokens, S subject tokens; a UNet call
carries rows [uncond × R, cond × R].
"""

import copy
import inspect
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from svdstory.pipeline.config.methods import FreeU, Method
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.sampling import injection, noise
from svdstory.pipeline.sampling.attention import Call, ExtendedSelfAttention, RecordingCrossAttention
from svdstory.pipeline.sampling.injection import Correspondences, correspond
from svdstory.pipeline.sampling.masks import SubjectMasks
from svdstory.pipeline.spectral.bank import SpectralBank
from svdstory.pipeline.spectral.recorder import SpectraRecorder

NU = (0.9, 0.81836735)  # query blending's share of the plain queries, at the first step and after a tenth


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is told about each image.

    prompt_embeds, negative_prompt_embeds: (B, L, D); pooled_prompt_embeds, negative_pooled_prompt_embeds: (B, P);
    time_ids: (6,) original size, crop corner, target size; subject_tokens: (B, S) positions of the subject's tokens,
    repeated where a prompt has fewer than S. The negative ones are unused without guidance.
    """

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor
    negative_prompt_embeds: Tensor
    negative_pooled_prompt_embeds: Tensor
    time_ids: Tensor
    subject_tokens: Tensor

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def of(self, rows: Tensor, halves: int) -> dict:
        """The UNet's keyword arguments for these images, (R,) indices."""
        text, pooled = self.prompt_embeds[rows], self.pooled_prompt_embeds[rows]
        if halves == 2:
            text = torch.cat([self.negative_prompt_embeds[rows], text])
            pooled = torch.cat([self.negative_pooled_prompt_embeds[rows], pooled])
        time_ids = self.time_ids.expand(len(text), -1)
        return {"encoder_hidden_states": text, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": time_ids}}


@dataclass(frozen=True)
class Group:
    """The images of one UNet call, (R,), and its keyword arguments: made once a pass, on the device."""

    rows: list[int]
    index: Tensor
    kwargs: dict


@dataclass(frozen=True)
class Step:
    """One finished step, as `on_step` sees it. noise_pred is after guidance, latents after the scheduler's step."""

    pass_index: int
    step: int
    steps: int
    noise_pred: Tensor
    latents: Tensor


@dataclass(frozen=True)
class Sample:
    """latents (B, C, H, W) float32; masks (B, H/2 · W/2) bool, the final undropped subject masks; counters of the
    spectral filter, over both passes if there are two; with feature injection the first pass and its correspondences;
    the DIFT features it kept."""

    latents: Tensor
    masks: Tensor
    counters: dict[str, int]
    first_pass: "Sample | None" = None
    correspondences: Correspondences | None = None
    features: Tensor | None = None


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
    on_step: Callable[[Step], None] = lambda step: None,
) -> Sample:
    """Denoise `latents` (B, C, H, W), standard normal, into a set of images of one subject.

    `micro_batch`: images per UNet call besides the anchors (None: all); less takes less memory and gives the same
    images, up to float rounding. Guidance of 1 or less runs without the uncond half. `exact_filter`: spectral filters
    decompose every matrix in float64; otherwise large ones are filtered within TOLERANCE (methods.py), many times
    faster. `spectra` records the anchors' singular values. FreeU is the method's, whatever the caller has
    set on the UNet. Raises InputError where the set and the method don't fit.
    """
    check(method, len(conditioning), latents.shape[-2:])
    call = Call(method, seed, halves=2 if guidance > 1 else 1, spectra=spectra)
    settings = dict(steps=steps, guidance=guidance, micro_batch=micro_batch, exact=exact_filter, on_step=on_step)
    with attached(unet, call):
        first = denoise(unet, scheduler, conditioning, call, latents, **settings)
        if not method.feature_injection:
            return first
        size = latents.shape[-2] // 2, latents.shape[-1] // 2
        matches = correspond(first.features, first.masks, size, method.n_anchors)
        second = denoise(unet, scheduler, conditioning, call, latents, **settings, matches=matches)
    counters = {name: total + second.counters[name] for name, total in first.counters.items()}
    return Sample(second.latents, second.masks, counters, first, matches)


def denoise(
    unet,
    scheduler,
    conditioning,
    call: Call,
    latents,
    *,
    steps,
    guidance,
    micro_batch,
    exact,
    on_step,
    matches: Correspondences | None = None,
) -> Sample:
    """One pass over the schedule: without `matches` the first, with them the second."""
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps)
    device, dtype = unet.device, unet.dtype  # once: diffusers walks all modules for each
    timesteps = scheduler.timesteps.to(device)
    latents = latents.to(device, torch.float32) * scheduler.init_noise_sigma
    call.bank = SpectralBank(call.method.filter_k, call.method.filter_v, exact=exact)
    call.masks = SubjectMasks(conditioning.subject_tokens, *latents.shape[-2:], device)
    groups = [
        Group(rows, index := torch.tensor(rows, device=device), conditioning.of(index, call.halves))
        for rows in row_groups(call.method, len(latents), micro_batch)
    ]
    call.others = others_of(call.method.n_anchors, device)
    features_at = int((scheduler.timesteps - injection.TIMESTEP).abs().argmin()) if matches is None else None
    features: list[Tensor] = []
    for step, t in enumerate(scheduler.timesteps):
        begin_step(call, step, steps, matches)
        model_input = scheduler.scale_model_input(latents, t).to(dtype)
        predictions = []
        for group in groups:
            begin_call(call, group, last=group is groups[-1])
            with capturing(unet, features, call, step == features_at):
                predictions.append(predict(unet, model_input, timesteps[step], group, call))
        halves = torch.cat(predictions, dim=1).float()  # (halves, B, C, H, W)
        noise_pred = halves[-1] if call.halves == 1 else halves[0] + guidance * (halves[1] - halves[0])
        latents = scheduler.step(noise_pred, t, latents, **stochastic(scheduler, call, step, len(latents))).prev_sample
        call.masks.end_step(calls=len(groups))
        on_step(Step(0 if matches is None else 1, step, steps, noise_pred, latents))
    masks = call.masks.masks()[latents.shape[-2] * latents.shape[-1] // 4]
    return Sample(latents, masks, call.bank.counters(), features=torch.cat(features) if features else None)


def predict(unet, model_input: Tensor, timestep: Tensor, group: Group, call: Call) -> Tensor:
    """The UNet's output for one call's rows, (halves, R, C, H, W); with query blending, after a plain pass."""
    x = model_input[group.index].repeat(call.halves, 1, 1, 1)
    if call.blend is not None:
        call.plain, masks, call.masks = True, call.masks, None
        unet(x, timestep, **group.kwargs)
        call.plain, call.masks = False, masks
    return unet(x, timestep, **group.kwargs, return_dict=False)[0].unflatten(0, (call.halves, -1))


def begin_step(call: Call, step: int, steps: int, matches: Correspondences | None) -> None:
    """Set what holds for all calls of a step: extension, mask dropout, query blending, injection."""
    method, tenth = call.method, steps // 10
    call.step = step
    call.extended = method.extended_attention != "off" and step >= 1
    call.blend = None
    if method.query_blending and 1 <= step <= tenth:
        call.blend = torch.linspace(*NU, tenth + 1)[step].item()
    call.injection = matches if matches is not None and tenth <= step <= steps // 3 else None
    call.kept = None
    if method.extended_attention == "masked" and call.extended:
        references = method.n_anchors if method.reference == "anchors" else len(call.masks.subject)
        call.kept = call.masks.dropped(references, method.mask_dropout, call.seed, step)
    for kept in (call.queries, call.references, call.injected):
        kept.clear()


def begin_call(call: Call, group: Group, last: bool) -> None:
    call.rows, call.index = group.rows, group.index
    call.anchors, call.last = group.rows[0] == 0, last


def others_of(anchors: int, device) -> Tensor:
    """(A, A - 1): for each anchor the other ones."""
    return torch.tensor(
        [[b for b in range(anchors) if b != a] for a in range(anchors)], dtype=torch.long, device=device
    )


def row_groups(method: Method, images: int, micro_batch: int | None) -> list[list[int]]:
    """The images of each UNet call of a step: the anchors together first, then the others in micro-batches.

    With random reference any image may refer to any other in any layer, so that all go together.
    """
    if method.reference == "random":
        return [list(range(images))]
    anchors = list(range(method.n_anchors))
    others = list(range(method.n_anchors, images))
    size = micro_batch or max(len(others), 1)
    chunks = [others[i : i + size] for i in range(0, len(others), size)]
    return [anchors, *chunks] if anchors else chunks


def check(method: Method, images: int, latent_size: tuple[int, int]) -> None:
    """Raises InputError where the number of images or the size doesn't fit the method."""
    if method.n_anchors > images:
        raise InputError(
            f"n_anchors {method.n_anchors} with {images} images: at most {images}. "
            "Use fewer anchors or add settings to the prompt set."
        )
    if any(side % 8 for side in latent_size):
        raise InputError(
            f"latents of {latent_size[0]}×{latent_size[1]}: both sides must be multiples of 8 "
            "(SDXL: a size in pixels that is a multiple of 64)."
        )


def stochastic(scheduler, call: Call, step: int, images: int) -> dict:
    """Generators for the noise that some schedulers add, one for each image."""
    if "generator" not in inspect.signature(scheduler.step).parameters:
        return {}
    return {"generator": [noise.generator("scheduler", call.seed, i, step) for i in range(images)]}


@contextmanager
def attached(unet, call: Call):
    """The method's processors and FreeU on the UNet; all put back on exit, also after an error."""
    saved = []
    with ExitStack() as stack:
        stack.callback(lambda: [module.set_processor(old) for module, old in saved])
        stack.enter_context(freeu(unet, call.method.freeu))
        chosen = list(processors(unet, call))
        for module, processor in chosen:
            saved.append((module, module.processor))
            module.set_processor(processor)
        if call.spectra is not None:
            call.spectra.choose([p.layer for _, p in chosen if isinstance(p, ExtendedSelfAttention) and p.extends])
        yield


def processors(unet, call: Call):
    """(attention module, processor) for every layer that the method touches."""
    method = call.method
    layer = 0
    for name, module in unet.named_modules():
        block = name.split(".")[0]
        if name.endswith("attn1") and block in ("down_blocks", "up_blocks"):
            extends = block == "up_blocks" and (method.extended_attention != "off" or method.query_blending)
            if extends or method.feature_injection:
                yield module, ExtendedSelfAttention(layer, extends, call)
            layer += 1
        elif name.endswith("attn2"):
            yield module, RecordingCrossAttention(call)


@contextmanager
def freeu(unet, settings: FreeU | None):
    """FreeU as diffusers gives it, or none; what was set before on exit."""
    names = ("s1", "s2", "b1", "b2")
    before = [{n: getattr(block, n, None) for n in names} for block in unet.up_blocks]
    if settings is None:
        unet.disable_freeu()
    else:
        unet.enable_freeu(**settings.model_dump())
    try:
        yield
    finally:
        for block, values in zip(unet.up_blocks, before):
            for name, value in values.items():
                setattr(block, name, value)


@contextmanager
def capturing(unet, features: list[Tensor], call: Call, wanted: bool):
    """Keep the cond half of the output of up_blocks[0] of a main call: the DIFT features."""
    if not (wanted and call.method.feature_injection):
        yield
        return

    def keep(module, args, output):
        if not call.plain:
            features.append(output[-len(call.rows) :])

    handle = unet.up_blocks[0].register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()
