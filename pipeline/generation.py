"""From a prompt set to pictures: encode, sample, decode."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import torch
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.references import located, read_picture
from svdstory.pipeline.config.schedulers import OWN, SCHEDULERS, SchedulerConfig, fit
from svdstory.pipeline.config.strict import InputError, whole_number
from svdstory.pipeline.decoding import NotFinite, decode
from svdstory.pipeline.encoding import encode, found_elsewhere, tokenizer_of
from svdstory.pipeline.models.adapters import adapted
from svdstory.pipeline.models.load import Model
from svdstory.pipeline.own_function import draw
from svdstory.pipeline.picture_latents import latents_of
from svdstory.pipeline.sampling.denoiser import Conditioning
from svdstory.pipeline.sampling.layers import execution_device
from svdstory.pipeline.sampling.noise import initial_latents
from svdstory.pipeline.sampling.sampler import Sample, Step, sample

EMBEDS = ("prompt_embeds", "pooled_prompt_embeds", "negative_prompt_embeds", "negative_pooled_prompt_embeds")


@dataclass(frozen=True)
class Generated:
    """The set's images (PIL, RGB), what the sampler found on the way, and what was out of the ordinary.

    A function of the user's has no sample; masks are its own, (B, h, w) uint8, where it returns some.
    """

    images: list[Image.Image]
    sample: Sample | None
    counters: dict[str, int]
    masks: torch.Tensor | None = None


def generate(
    model: Model | Any,
    prompts: PromptSet,
    method: Method,
    *,
    seed: int | Sequence[int] = 0,
    steps: int | None = None,
    guidance: float | None = None,
    size: tuple[int, int] | None = None,
    scheduler: str | None = None,
    scheduler_config: SchedulerConfig | None = None,
    long_prompts: str = "error",
    prompt_weights: bool = False,
    micro_batch: int | None = None,
    latents: torch.Tensor | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    callback_on_step_end: Callable[[Any, int, Any, dict], dict] | None = None,
    **sampling,
) -> Generated:
    """Draw a prompt set with a method. `model`: of load_model, or a stock StableDiffusionXLPipeline.

    size: (width, height) in pixels, multiples of 64 at SDXL's scale (8 latents). Unset steps, guidance, size and
    scheduler are the model's own. scheduler: a name of config/schedulers.py, or `own`. seed: the set's, or one for each
    image, which then starts from what is image 0's noise with that seed. As diffusers' pipelines take them: latents,
    (B, C, H, W), and generator, one or B, for the noise to start from; prompt_embeds, pooled_prompt_embeds and the
    negative ones instead of the prompts'; callback_on_step_end(pipe, step, timestep, {"latents": ...}), whose latents
    are gone on with. Of the set's references as many as the method has anchors are these, and the images are all that
    is returned. Raises InputError for prompts and pictures that don't fit and NotFinite for pictures that aren't.
    """
    model = model if isinstance(model, Model) else of_pipeline(model)
    seeds = [whole("seed", one) for one in seed] if isinstance(seed, Sequence) else whole("seed", seed)
    steps = model.spec.steps if steps is None else whole("steps", steps, 1)
    micro_batch = None if micro_batch is None else whole("micro_batch", micro_batch, 1)
    pipe = model.pipe
    embeds = {name: sampling.pop(name) for name in EMBEDS if sampling.get(name) is not None}
    if callback_on_step_end is not None:
        sampling["on_step"] = calling(callback_on_step_end, pipe, sampling.get("on_step"))
    width, height = size or model.spec.size
    shape = latent_shape(pipe, width, height)
    name, guidance = scheduler or model.spec.scheduler, model.spec.guidance if guidance is None else guidance
    own_scheduler = make_scheduler(name, pipe.scheduler, scheduler_config)
    set_seed = seeds if isinstance(seeds, int) else seeds[0]
    refuse_what_cannot_be_drawn(model, method)
    with adapted(pipe, (*model.spec.loras, *prompts.loras)):
        if method.function:
            setting = dict(seed=set_seed, steps=steps, guidance=guidance, size=(width, height), scheduler=name)
            setting |= dict(made_scheduler=own_scheduler, on_step=sampling.get("on_step"))
            images, masks = draw(method.function, model, prompts, **setting)
            return Generated(images, None, {"model_spoiled": 1} if model.spoiled else {}, masks)
        prompts = prompts.with_references(method.references_used(len(prompts.references)))
        pictures = reference_latents(model, prompts, method, (width, height))
        conditioning = encode(model, prompts, (width, height), method.oneprompt, long_prompts, prompt_weights)
        conditioning = told_instead(conditioning, embeds, len(prompts.references))
        latents = first_latents(len(prompts.settings), shape, seeds, method.same_latent, latents, generator)
        done = sample(
            pipe.unet,
            own_scheduler,
            conditioning,
            method,
            seed=set_seed,
            steps=steps,
            guidance=guidance,
            latents=latents.to(model.device),
            micro_batch=micro_batch,
            pictures=pictures,
            **sampling,
        )
    return decoded(pipe, prompts, method, done)


def refuse_what_cannot_be_drawn(model: Model, method: Method) -> None:
    """Raises InputError for pictures made elsewhere, and for a subject that the model does not wear."""
    if method.pictures:
        raise InputError("this method's pictures were made elsewhere: there is nothing to draw.")
    if method.tuning and not model.wears:
        raise InputError(
            "this method's subject is not on the model: put it there with `personalised` and name it with `worded` "
            "(pipeline/personal/README.md), or use `svdstory run`, which does both."
        )


def decoded(pipe, prompts: PromptSet, method: Method, done: Sample) -> Generated:
    """The sample as pictures. Raises NotFinite."""
    if not torch.isfinite(done.latents).all():
        raise NotFinite("the latents hold inf or nan")
    images, upcast = decode(pipe, done.latents)
    pipe.maybe_free_model_hooks()  # offloaded by component: the VAE leaves the device, as after a stock call
    elsewhere = found_elsewhere(tokenizer_of(pipe), prompts, method)
    noted = {"vae_upcast_images": upcast, "settings_found_elsewhere": elsewhere}
    return Generated(images, done, done.counters | {name: times for name, times in noted.items() if times})


def reference_latents(model: Model, prompts: PromptSet, method: Method, size: tuple[int, int]) -> torch.Tensor | None:
    """x0 (R, C, H, W) of the set's pictures; None without any. Raises InputError for pictures that cannot serve."""
    if not prompts.references:
        return None
    if method.oneprompt:
        raise InputError("oneprompt writes one text for all images of a set: reference pictures have no place in it.")
    references = prompts.references
    if not all(reference.sha256 for reference in references):  # of a caller's own; a plan's are located
        references, _ = located(references, size)
    return latents_of(model.pipe, [read_picture(reference, size) for reference in references], model.device)


def told_instead(conditioning: Conditioning, embeds: dict[str, torch.Tensor], pictures: int) -> Conditioning:
    """The conditioning with the caller's embeddings of the images, (B, ...), after those of the pictures."""
    own = {name: getattr(conditioning, name)[:pictures] for name in embeds}
    return replace(conditioning, **{name: torch.cat([own[name], x.to(own[name])]) for name, x in embeds.items()})


def first_latents(images: int, shape, seed, same_latent: bool, latents=None, generator=None) -> torch.Tensor:
    """(B, C, H, W) standard normal. Raises InputError for more than one source of them, and for too few or many."""
    if latents is not None and generator is not None:
        raise InputError("latents and generator: both say which noise to start from. Give one.")
    several = {"seed": seed if isinstance(seed, list) else None, "latents": latents}
    several["generator"] = generator if isinstance(generator, Sequence) else None
    for name, given in several.items():
        if given is not None and len(given) != images:
            raise InputError(f"{name}: got {len(given)}, expected one for each of the set's {images} images.")
    if latents is not None:
        if latents.shape[1:] != shape:
            raise InputError(f"latents: got {tuple(latents.shape)}, expected {(images, *shape)} for this size.")
        return latents
    if generator is not None:
        made = list(generator) if isinstance(generator, Sequence) else generator
        return randn_tensor((images, *shape), generator=made, device=torch.device("cpu"))
    if isinstance(seed, list):
        return torch.cat([initial_latents(one, 1, shape) for one in (seed[:1] * images if same_latent else seed)])
    return initial_latents(seed, images, shape, same_latent)


def calling(callback: Callable, pipe, on_step: Callable | None) -> Callable[[Step], torch.Tensor | None]:
    """diffusers' callback_on_step_end as the sampler's `on_step`, after the caller's own one."""

    def called(step: Step) -> torch.Tensor | None:
        own = on_step(step) if on_step else None
        latents = step.latents if own is None else own
        returned = callback(pipe, step.step, step.timestep, {"latents": latents})
        unknown = sorted(set(returned or ()) - {"latents"})
        if unknown:
            raise InputError(f"callback_on_step_end returned {', '.join(unknown)}: only latents can be changed.")
        return (returned or {}).get("latents", latents)

    return called


def whole(name: str, value: Any, least: int | None = None) -> int:
    """A whole number, a numpy integer too. Raises InputError for anything else, and below `least`."""
    number = whole_number(value)
    if type(number) is not int or (least is not None and number < least):
        raise InputError(f"{name}: got {value!r}, expected a whole number{'' if least is None else f' from {least}'}.")
    return number


def of_pipeline(pipe) -> Model:
    """A Model around a pipeline that the caller loaded."""
    from svdstory.pipeline.models.spec import ModelSpec

    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    spec = ModelSpec(
        name="user",
        source="folder",
        location=str(pipe.config.get("_name_or_path") or "user"),
        dtype=str(pipe.unet.dtype).removeprefix("torch."),
        steps=50,
        size=(size, size),
        scorers=(),
        scheduler=OWN,
    )
    return Model(spec, pipe, execution_device(pipe.unet))


def latent_shape(pipe, width: int, height: int) -> tuple[int, int, int]:
    """(C, H, W) of the latents. Raises InputError for a size that doesn't fit the UNet's blocks."""
    unit = 8 * pipe.vae_scale_factor
    if width % unit or height % unit:
        raise InputError(
            f"size {width}×{height}: both sides must be multiples of {unit} pixels for this model. "
            f"Nearest: {round(width / unit) * unit or unit}×{round(height / unit) * unit or unit}."
        )
    return pipe.unet.config.in_channels, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor


def make_scheduler(name: str, own, config: SchedulerConfig | None = None):
    """A scheduler by name with the model's own configuration (noise schedule, prediction type), changed by `config`.

    Raises InputError where the two don't fit.
    """
    changes = (config or SchedulerConfig()).changes()
    names = [one.__name__ for one in type(own).__mro__]  # a subclass counts as what it is made of
    mine = next((one for one in names if one in {kind.class_name for kind in SCHEDULERS.values()}), names[0])
    class_name, changed = fit(name, {**own.config, "_class_name": mine}, changes)
    kind = type(own) if name == OWN else getattr(diffusers, class_name)
    return kind.from_config(own.config, **changed)
