"""From a prompt set to pictures: encode, sample, decode."""

from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from PIL import Image

from svdstory.pipeline.config.consolidation import consolidate_set, identity_of
from svdstory.pipeline.config.families import OnePrompt
from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.schedulers import OWN, SCHEDULERS, SchedulerConfig, fit
from svdstory.pipeline.config.strict import InputError, whole_number
from svdstory.pipeline.config.tokens import Tokenizer, subject_positions
from svdstory.pipeline.decoding import NotFinite, decode
from svdstory.pipeline.models.load import Model
from svdstory.pipeline.sampling.denoiser import Conditioning
from svdstory.pipeline.sampling.families.oneprompt import reweighted_set
from svdstory.pipeline.sampling.noise import initial_latents
from svdstory.pipeline.sampling.sampler import Sample, sample


@dataclass(frozen=True)
class Generated:
    """The set's images (PIL, RGB), what the sampler found on the way, and what was out of the ordinary."""

    images: list[Image.Image]
    sample: Sample
    counters: dict[str, int]


def generate(
    model: Model | Any,
    prompts: PromptSet,
    method: Method,
    *,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    size: tuple[int, int] | None = None,
    scheduler: str | None = None,
    scheduler_config: SchedulerConfig | None = None,
    micro_batch: int | None = None,
    **sampling,
) -> Generated:
    """Draw a prompt set with a method. `model`: of load_model, or a stock StableDiffusionXLPipeline.

    size: (width, height) in pixels, multiples of 64 at SDXL's scale (8 latents). Unset steps, guidance, size and
    scheduler are the model's own. scheduler: a name of config/schedulers.py, or `own`. Raises InputError for
    prompts that don't fit and NotFinite for pictures that aren't.
    """
    model = model if isinstance(model, Model) else of_pipeline(model)
    seed, steps = whole("seed", seed), model.spec.steps if steps is None else whole("steps", steps, 1)
    micro_batch = None if micro_batch is None else whole("micro_batch", micro_batch, 1)
    pipe = model.pipe
    width, height = size or model.spec.size
    shape = latent_shape(pipe, width, height)
    conditioning = encode(model, prompts, (width, height), method.oneprompt)
    latents = initial_latents(seed, len(conditioning), shape, method.same_latent)
    done = sample(
        pipe.unet,
        make_scheduler(scheduler or model.spec.scheduler, pipe.scheduler, scheduler_config),
        conditioning,
        method,
        seed=seed,
        steps=steps,
        guidance=model.spec.guidance if guidance is None else guidance,
        latents=latents.to(model.device),
        micro_batch=micro_batch,
        **sampling,
    )
    if not torch.isfinite(done.latents).all():
        raise NotFinite("the latents hold inf or nan")
    images, upcast = decode(pipe, done.latents)
    noted = {
        "vae_upcast_images": upcast,
        "settings_found_elsewhere": found_elsewhere(tokenizer_of(pipe), prompts, method),
    }
    counters = done.counters | {name: times for name, times in noted.items() if times}
    return Generated(images, done, counters)


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
    return Model(spec, pipe, pipe.unet.device)


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


def tokenizer_of(pipe) -> Tokenizer:
    """The pipeline's first tokenizer, with what Textual Inversion added to it."""
    own = pipe.tokenizer
    return Tokenizer(own.tokenize, frozenset(own.get_added_vocab()), own.model_max_length)


@torch.no_grad()
def encode(model: Model, prompts: PromptSet, size: tuple[int, int], oneprompt: OnePrompt | None = None) -> Conditioning:
    """The set's conditioning by the pipeline's own text encoders; the last set's is kept for its other methods.

    With `oneprompt` each image's text is the consolidated one, reweighted for its setting.
    """
    key = (prompts.style, prompts.subject, prompts.settings, prompts.concept, size, oneprompt)
    if key not in model.encoded:
        pipe, tokenizer = model.pipe, tokenizer_of(model.pipe)
        consolidated = consolidate_set(prompts, oneprompt, tokenizer) if oneprompt else []
        texts = [text.prompt for text in consolidated] or prompts.prompts
        subject_in = [identity_of(prompts)] * len(texts) if oneprompt else texts
        embeds, negative, pooled, negative_pooled = pipe.encode_prompt(
            texts, device=model.device, do_classifier_free_guidance=True
        )
        if oneprompt and oneprompt.reweighting:
            widths = tuple(encoder.config.hidden_size for encoder in (pipe.text_encoder, pipe.text_encoder_2))
            embeds = reweighted_set(embeds, consolidated, oneprompt.reweighting, widths)
        if oneprompt and oneprompt.zero_pooled:
            pooled = torch.zeros_like(pooled)
        width, height = size
        time_ids = torch.tensor([height, width, 0, 0, height, width], dtype=embeds.dtype, device=model.device)
        subject = padded([subject_positions(text, prompts.concept, tokenizer) for text in subject_in])
        identity_tokens = consolidated[0].identity[1] if oneprompt else 0
        told = embeds, pooled, negative, negative_pooled, time_ids, torch.tensor(subject, device=model.device)
        model.encoded.clear()
        model.encoded[key] = Conditioning(*told, identity_tokens)
    return model.encoded[key]


def found_elsewhere(tokenizer: Tokenizer, prompts: PromptSet, method: Method) -> int:
    """How many settings One-Prompt-One-Story finds not at their own place, but inside an earlier one's words."""
    if not method.oneprompt:
        return 0
    texts = consolidate_set(prompts, method.oneprompt, tokenizer)
    return len({setting for text in texts for setting in text.elsewhere})


def padded(positions: list[list[int]]) -> list[list[int]]:
    """Lists of one length: the first position repeated."""
    longest = max(map(len, positions))
    return [p + p[:1] * (longest - len(p)) for p in positions]
