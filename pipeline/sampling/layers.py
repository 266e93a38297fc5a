"""The UNet's attention layers: found also behind torch.compile and PEFT, and put back as they were."""

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch

from svdstory.pipeline.config.strict import InputError


@dataclass(frozen=True)
class Layer:
    """One attention layer: `up_blocks.0.attentions.1.transformer_blocks.0.attn1`, its module, and its number among
    the layers of its kind (attn1 or attn2) in the order in which the UNet registers them: down, up, mid. ratio: its
    tokens have 1 / ratio of the latents' sides; SDXL's 2 and 4, SD 1.5's and 2.1's 1, 2, 4 and 8."""

    name: str
    module: torch.nn.Module
    number: int
    ratio: int

    @property
    def kind(self) -> str:
        return self.name.rsplit(".", 1)[-1]

    @property
    def part(self) -> str:
        """down_blocks, up_blocks or mid_block"""
        return self.name.split(".", 1)[0]

    @property
    def block(self) -> str:
        """Of SDXL's blocks with cross-attention the one of its kind and ratio: down1, down2, mid, up0 or up1. Attention
        at the latents' own size, which SDXL has not, counts with that at half of it."""
        if self.part == "mid_block":
            return "mid"
        coarse = self.ratio >= 4
        return f"down{1 + coarse}" if self.part == "down_blocks" else f"up{1 - coarse}"


def inner_unet(unet) -> torch.nn.Module:
    """The UNet2DConditionModel itself, also of a compiled or PEFT-wrapped one. Raises InputError if there is none."""
    for module in unet.modules():
        if {"down_blocks", "mid_block", "up_blocks"} <= module._modules.keys():
            return module
    raise InputError(
        f"{type(unet).__name__} holds no UNet with down_blocks, mid_block and up_blocks: every method works on these. "
        "Give SDXL's UNet2DConditionModel, as it is, compiled or PEFT-wrapped."
    )


def execution_device(unet) -> torch.device:
    """Where its work is done: under offload its weights lie elsewhere, or on the meta device, between the calls."""
    for module in inner_unet(unet).modules():
        if (place := getattr(getattr(module, "_hf_hook", None), "execution_device", None)) is not None:  # accelerate's
            return torch.device("cuda", place) if isinstance(place, int) else torch.device(place)
        registry = getattr(module, "_diffusers_hook", None)
        if registry is not None and (group := registry.get_hook("group_offloading")) is not None:
            return torch.device(group.group.onload_device)
    return unet.device


def attention_layers(unet) -> list[Layer]:
    """All attn1 and attn2 of the UNet. Raises InputError if one of the kinds is missing: nothing could act on it."""
    layers: dict[str, list[Layer]] = {"attn1": [], "attn2": []}
    inner = inner_unet(unet)
    ratios = block_ratios(inner)
    for name, module in inner.named_modules():
        of_kind = layers.get(name.rsplit(".", 1)[-1])
        if of_kind is not None and hasattr(module, "set_processor"):
            block = next((block for block in ratios if name.startswith(f"{block}.")), None)
            of_kind.append(Layer(name, module, len(of_kind), ratios.get(block, 1)))
    missing = [kind for kind, found in layers.items() if not any(layer.part == "up_blocks" for layer in found)]
    if missing:
        raise InputError(
            f"{type(unet).__name__} has no {' and no '.join(missing)} layers in its up_blocks: a method would silently "
            "do nothing. Give SDXL's UNet2DConditionModel with diffusers' attention layers."
        )
    return layers["attn1"] + layers["attn2"]


def block_ratios(unet: torch.nn.Module) -> dict[str, int]:
    """Block -> by how much the latents' sides are larger than those that it works at: `up_blocks.0` -> 4."""
    ratios, ratio = {}, 1
    for number, block in unet.down_blocks.named_children():
        ratios[f"down_blocks.{number}"] = ratio
        ratio *= 2 if getattr(block, "downsamplers", None) else 1
    ratios["mid_block"] = ratio
    for number, block in unet.up_blocks.named_children():
        ratios[f"up_blocks.{number}"] = ratio
        ratio //= 2 if getattr(block, "upsamplers", None) else 1
    return ratios


def shared_ratios(layers: list[Layer]) -> tuple[int, ...]:
    """Of the self-attention that images share, in the up blocks, coarse ones first; 4 and 2 are always among them."""
    own = {layer.ratio for layer in layers if layer.kind == "attn1" and layer.part == "up_blocks"}
    return tuple(sorted({4, 2, *own}, reverse=True))


@contextmanager
def processors_on(layers: list[Layer], processor_of: Callable[[Layer], object | None]):
    """A processor on every layer that `processor_of` has one for; the old ones on exit, also after an error."""
    before = [(layer.module, layer.module.processor) for layer in layers]
    try:
        for layer in layers:
            processor = processor_of(layer)
            if processor is not None:
                layer.module.set_processor(processor)
        yield
    finally:
        for module, processor in before:
            module.set_processor(processor)


def uncompiled() -> AbstractContextManager:
    """A compiled UNet runs as if it were not: hooks that are put on later are seen."""
    return torch.compiler.set_stance("force_eager")
