"""Loading a model: stock diffusers components, safetensors only, from files that lie here."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.models.spec import ModelSpec, check_device, resolve_model


@dataclass
class Model:
    """A loaded model. `pipe` is a stock StableDiffusionXLPipeline."""

    spec: ModelSpec
    pipe: StableDiffusionXLPipeline
    device: torch.device
    encoded: dict = field(default_factory=dict)  # prompts -> Conditioning, for the methods of one set


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


def choose_device(wanted: str | None = None) -> torch.device:
    """`wanted`, or a CUDA device if there is one, or the CPU. Raises InputError for a GPU without kernels."""
    check_device(wanted)
    place = torch.device(wanted or ("cuda" if torch.cuda.is_available() else "cpu"))
    if place.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError(
                f"device {place}: this torch ({torch.__version__}) sees no GPU. "
                "Run `svdstory doctor` on this node, or use --device cpu."
            )
        if (place.index or 0) >= torch.cuda.device_count():
            raise InputError(f"device {place}: this machine has {torch.cuda.device_count()}, counted from cuda:0.")
        missing = missing_kernels(torch.cuda.get_device_capability(place), torch.cuda.get_arch_list())
        if missing:
            raise InputError(f"{torch.cuda.get_device_name(place)}: {missing}")
    return place


def device_name(device: torch.device | str) -> str:
    """The card's name, or `cpu`."""
    place = torch.device(device)
    return torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu"


def missing_kernels(capability: tuple[int, int], arch_list: list[str]) -> str:
    """Why a GPU of that capability cannot run this torch, with the wheel to install; empty if it can.

    A binary for sm_XY runs on GPUs of the same major version and a minor of Y or more; PTX (compute_XY) on any later.
    """
    major, minor = capability
    for arch in arch_list:
        kind, _, number = arch.rstrip("af").partition("_")
        a, b = divmod(int(number), 10)
        if (kind == "sm" and a == major and b <= minor) or (kind == "compute" and (a, b) <= (major, minor)):
            return ""
    advice = (
        "Install the newest wheel that has them: pip install torch==2.7.1 torchvision==0.22.1"
        if major < 8
        else "Install a newer torch: pip install -U torch torchvision"
    )
    return (
        f"this torch ({torch.__version__}) has no kernels for sm_{major}{minor} (it has {' '.join(arch_list)}). "
        + advice
    )


def check_dtype(dtype: str, place: torch.device) -> None:
    """Raises InputError for bfloat16 on a GPU below sm_80 (V100), which only emulates it."""
    if dtype == "bfloat16" and place.type == "cuda" and torch.cuda.get_device_capability(place) < (8, 0):
        raise InputError(
            f"dtype bfloat16 on {torch.cuda.get_device_name(place)}: only emulated below sm_80. Use float16."
        )
