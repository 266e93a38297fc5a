"""Loading a model: stock diffusers components, safetensors only, from files that lie here."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.models.device import choose_device
from svdstory.pipeline.models.memory import Offload
from svdstory.pipeline.models.placement import place_on
from svdstory.pipeline.models.spec import ModelSpec, resolve_model

# diffusers warns at every cast, also of models with nothing to keep: two lines for each unit in float16
logging.getLogger("diffusers.models.modeling_utils").addFilter(
    lambda record: "should be kept in float32: []" not in record.getMessage()
)


@dataclass
class Model:
    """A loaded model. `pipe` is a stock StableDiffusionXLPipeline, or StableDiffusionPipeline (SD 1.5, 2.1)."""

    spec: ModelSpec
    pipe: StableDiffusionXLPipeline | StableDiffusionPipeline
    device: torch.device
    encoded: dict = field(default_factory=dict)  # prompts -> Conditioning, for the methods of one set
    wears: int = 0  # subjects that are on it (personal/personalised.py)
    spoiled: str = ""  # what a function of the user's left that could not be put back: load it anew


def load_model(
    wanted: str | ModelSpec,
    device: str | None = None,
    dtype: str | None = None,
    offload: Offload | None = None,
    compiled: bool = False,
) -> Model:
    """Load `sdxl`, `tiny`, `miniature`, a folder in diffusers' layout or a .safetensors checkpoint onto `device`
    (default: a GPU if there is one).

    offload: its weights stay in the CPU's memory, and come onto the GPU by component (`model`) or by layer (`sequential`;
    `group`, which fetches the next one meanwhile). compiled: the UNet, by torch.compile. Raises InputError for weights
    that are not here, for a GPU that this torch has no kernels for, and for offload without a GPU.
    """
    spec = wanted if isinstance(wanted, ModelSpec) else resolve_model(wanted, dtype)
    place = choose_device(device)
    check_dtype(spec.dtype, place)
    if offload and place.type == "cpu":
        raise InputError(f"offload {offload}: it is for GPUs, and the device is the CPU. Leave it out.", key="offload")
    kind = getattr(torch, spec.dtype)
    diffusers_logging.disable_progress_bar()  # the libraries' own loading bars would fill batch logs
    transformers_logging.disable_progress_bar()
    if spec.source == "built":
        from svdstory.pipeline.models.tiny import build_tiny

        pipe = build_tiny()
        if kind is not torch.float32:
            pipe.to(dtype=kind)
    elif spec.source == "file":
        pipe = from_file(spec, kind)
    else:
        pipe = from_folder(spec, kind)
    if spec.vae_folder is not None:
        vae = AutoencoderKL.from_pretrained(
            spec.vae_folder, torch_dtype=kind, local_files_only=True, use_safetensors=True
        )
        pipe.register_modules(vae=vae)
    pipe.set_progress_bar_config(disable=True)
    place_on(place, pipe, offload)
    if compiled:
        pipe.unet.compile()
    return Model(spec, pipe, place)


def from_folder(spec: ModelSpec, dtype: torch.dtype) -> StableDiffusionXLPipeline | StableDiffusionPipeline:
    """SDXL without its watermark; SD 1.5 and 2.1 without the safety checker, whose weights need not be there."""
    own = dict(add_watermarker=False)
    if spec.one_encoder:
        own = dict(safety_checker=None, feature_extractor=None, image_encoder=None, requires_safety_checker=False)
    kind = StableDiffusionPipeline if spec.one_encoder else StableDiffusionXLPipeline
    settings = dict(torch_dtype=dtype, variant=spec.variant, use_safetensors=True, local_files_only=True)
    return kind.from_pretrained(Path(spec.folder), **settings, **own)


def from_file(spec: ModelSpec, dtype: torch.dtype) -> StableDiffusionXLPipeline:
    """A checkpoint in one file, with the configurations in `spec.folder`. Raises InputError for weights that it lacks."""
    from svdstory.pipeline.models.tiny import clip_tokenizers

    tokenizer, tokenizer_2 = clip_tokenizers()
    scheduler = spec.own_scheduler()
    pipe = StableDiffusionXLPipeline.from_single_file(
        spec.location,
        config=spec.folder,
        local_files_only=True,
        torch_dtype=dtype,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        scheduler=getattr(diffusers, scheduler["_class_name"]).from_config(scheduler),
        add_watermarker=False,
    )
    parts = (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
    lacking = [name for part in parts for name, weight in part.named_parameters() if weight.is_meta]
    if lacking:
        raise InputError(f"model {spec.location}: {len(lacking)} weights are not in it: {', '.join(lacking[:5])}, ...")
    return pipe


def check_dtype(dtype: str, place: torch.device) -> None:
    """Raises InputError for bfloat16 on a GPU below sm_80 (V100), which only emulates it."""
    if dtype == "bfloat16" and place.type == "cuda" and torch.cuda.get_device_capability(place) < (8, 0):
        raise InputError(
            f"dtype bfloat16 on {torch.cuda.get_device_name(place)}: only emulated below sm_80. Use float16."
        )
