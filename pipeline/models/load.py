"""Loading a model: stock diffusers components, safetensors only, from files that lie here."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.models.device import choose_device
from svdstory.pipeline.models.spec import ModelSpec, resolve_model


@dataclass
class Model:
    """A loaded model. `pipe` is a stock StableDiffusionXLPipeline."""

    spec: ModelSpec
    pipe: StableDiffusionXLPipeline
    device: torch.device
    encoded: dict = field(default_factory=dict)  # prompts -> Conditioning, for the methods of one set
    spoiled: str = ""  # what a function of the user's left that could not be put back: load it anew


def load_model(wanted: str | ModelSpec, device: str | None = None, dtype: str | None = None) -> Model:
    """Load `sdxl`, `tiny`, `miniature` or a folder in diffusers' layout onto `device` (default: a GPU if there is one).

    Raises InputError for weights that are not here, and for a GPU that this torch has no kernels for.
    """
    spec = wanted if isinstance(wanted, ModelSpec) else resolve_model(wanted, dtype)
    place = choose_device(device)
    check_dtype(spec.dtype, place)
    kind = getattr(torch, spec.dtype)
    diffusers_logging.disable_progress_bar()  # the libraries' own loading bars would fill batch logs
    transformers_logging.disable_progress_bar()
    if spec.source == "built":
        from svdstory.pipeline.models.tiny import build_tiny

        pipe = build_tiny()
        if kind is not torch.float32:
            pipe.to(dtype=kind)
    else:
        pipe = StableDiffusionXLPipeline.from_pretrained(
            Path(spec.folder),
            torch_dtype=kind,
            variant=spec.variant,
            use_safetensors=True,
            local_files_only=True,
            add_watermarker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    return Model(spec, pipe.to(place), place)


def check_dtype(dtype: str, place: torch.device) -> None:
    """Raises InputError for bfloat16 on a GPU below sm_80 (V100), which only emulates it."""
    if dtype == "bfloat16" and place.type == "cuda" and torch.cuda.get_device_capability(place) < (8, 0):
        raise InputError(
            f"dtype bfloat16 on {torch.cuda.get_device_name(place)}: only emulated below sm_80. Use float16."
        )
