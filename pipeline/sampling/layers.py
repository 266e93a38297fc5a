"""The UNet's attention layers: found also behind torch.compile and PEFT, and put back as they were."""

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch

from svdstory.pipeline.config.strict import InputError


@dataclass(frozen=True)
class Layer:
    """One attention layer: `up_blocks.0.attentions.1.transformer_blocks.0.attn1`, its module, and its number among
    the layers of its kind (attn1 or attn2) in the order in which the UNet registers them: down, up, mid."""

    name: str
    module: torch.nn.Module
    number: int

    @property
    def kind(self) -> str:
        return self.name.rsplit(".", 1)[-1]

    @property
    def part(self) -> str:
        """down_blocks, up_blocks or mid_block"""
        return self.name.split(".", 1)[0]

    @property
    def block(self) -> str:
        """down0, down1, .., mid, up0, up1, .."""
        part, number = self.name.split(".")[:2]
        return "mid" if part == "mid_block" else part.removesuffix("_blocks") + number


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
    for name, module in inner_unet(unet).named_modules():
        of_kind = layers.get(name.rsplit(".", 1)[-1])
        if of_kind is not None and hasattr(module, "set_processor"):
            of_kind.append(Layer(name, module, len(of_kind)))
    missing = [kind for kind, found in layers.items() if not any(layer.part == "up_blocks" for layer in found)]
    if missing:
        raise InputError(
            f"{type(unet).__name__} has no {' and no '.join(missing)} layers in its up_blocks: a method would silently "
            "do nothing. Give SDXL's UNet2DConditionModel with diffusers' attention layers."
        )
    return layers["attn1"] + layers["attn2"]


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
