"""Where a pipeline's weights lie while it works: on the device, or in the CPU's memory, by diffusers' three ways."""

import torch

from svdstory.pipeline.models.memory import Offload


def place_on(device: torch.device, pipe, offload: Offload | None = None) -> None:
    """The pipeline, ready to work on the device. The images are the same whatever `offload` is."""
    if offload is None:
        pipe.to(device)
    elif offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    else:
        if pipe.vae.config.force_upcast and pipe.vae.dtype == torch.float16:
            pipe.vae.to(torch.float32)  # it decodes so, and could not be cast once its layers come and go
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                (by_layer if offload == "sequential" else by_group)(part, device)


def by_layer(part: torch.nn.Module, device: torch.device) -> None:
    """As a pipeline's enable_sequential_cpu_offload does."""
    from accelerate import cpu_offload

    cpu_offload(part, execution_device=device, offload_buffers=True)


def by_group(part: torch.nn.Module, device: torch.device) -> None:
    """By layer, the next one fetched on a CUDA stream of its own."""
    from diffusers.hooks import apply_group_offloading

    settings = dict(onload_device=device, offload_device=torch.device("cpu"), offload_type="leaf_level")
    apply_group_offloading(part, use_stream=device.type == "cuda", **settings)
