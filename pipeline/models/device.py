"""Which device a model or a scorer runs on. Imports torch alone: diffusers takes seconds that a scorer does not need."""

import torch

from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.models import memory
from svdstory.pipeline.models.spec import ModelSpec, check_device


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


def fitting(
    model: ModelSpec,
    method: Method,
    rows: int,
    size: tuple[int, int],
    device: torch.device,
    offload: memory.Offload | None = None,
) -> int | None:
    """The micro-batch that fits the card at hand; None, all at once, where it is not known to matter. `rows`: images, and
    reference pictures where there are some, of which the method then is (methods.in_rows)."""
    if device.type != "cuda" or not memory.applies(model):
        return None
    card_gib = torch.cuda.get_device_properties(device).total_memory / 2**30
    return memory.largest_micro_batch(method, rows, size, card_gib, offload) or 1
