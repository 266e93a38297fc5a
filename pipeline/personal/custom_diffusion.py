"""Custom Diffusion (arXiv 2212.04488): cross-attention's to_k and to_v are other matrices. Its files as diffusers' name them.

The weights are assigned to the layers' own matrices, which is exact; diffusers' loader of such files does nothing without
a private argument (its issue 9320), and refuses its own safetensors.
"""

import re

from torch import Tensor
from torch.nn import Linear, Module, Parameter

from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.sampling.layers import inner_unet

IN_FILE = re.compile(r"(?:unet\.)?(.+\.attn2)\.processor\.to_(k|v|q|out)_custom_diffusion(?:\.0)?\.(weight|bias)")


def projections(unet, kinds: tuple[str, ...] = ("to_k", "to_v", "to_q", "to_out.0")) -> dict[str, Linear]:
    """`down_blocks.1....attn2.to_k` -> the layer, below a LoRA's wrapper where it wears one."""
    found = {}
    for name, module in inner_unet(unet).named_modules():
        if name.endswith(".attn2"):
            for kind in kinds:
                layer = module.get_submodule(kind)
                found[f"{name}.{kind}"] = getattr(layer, "base_layer", layer)
    return found


def cross_projections(unet) -> dict[str, Linear]:
    """What is trained."""
    return projections(unet, ("to_k", "to_v"))


def names_in_file(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """`<attn2>.to_k` -> `<attn2>.processor.to_k_custom_diffusion.weight`."""
    return {name.replace(".attn2.", ".attn2.processor.") + "_custom_diffusion.weight": w for name, w in weights.items()}


def weights_in(tensors: dict[str, Tensor], file: str) -> dict[str, Tensor]:
    """A file's tensors by the layer and parameter that they take the place of: `<attn2>.to_k.weight`. Raises InputError."""
    found = {}
    for name, tensor in tensors.items():
        match = IN_FILE.fullmatch(name)
        if match is None:
            raise InputError(f"{file}: {name} is no tensor of Custom Diffusion: it would be half applied.")
        layer, kind, parameter = match.groups()
        found[f"{layer}.to_{kind}{'.0' if kind == 'out' else ''}.{parameter}"] = tensor
    return found


class CustomWeights:
    """Other matrices in a UNet's cross-attention, for the length of a `with`: `<layer>` or `<layer>.<parameter>` -> it.

    The layers get their own parameters back, the very objects. Raises InputError, with nothing changed, for a name or a
    shape that the UNet lacks.
    """

    def __init__(self, unet, weights: dict[str, Tensor], file: str = "Custom Diffusion"):
        layers = projections(unet)
        self._own: list[tuple[Module, str, Parameter]] = []
        self._new: list[tuple[Module, str, Parameter]] = []
        for name, weight in weights.items():
            path, _, parameter = name.rpartition(".") if name.endswith((".weight", ".bias")) else (name, "", "weight")
            own = getattr(layers.get(path), parameter, None)
            if own is None or own.shape != weight.shape:
                there = f"there it is {tuple(own.shape)}" if own is not None else "it has no such layer"
                raise InputError(
                    f"{file}: {name} {tuple(weight.shape)} does not fit this model: {there}. Is it another model's?"
                )
            new = weight if isinstance(weight, Parameter) else Parameter(weight.to(own), requires_grad=False)
            self._own.append((layers[path], parameter, own))
            self._new.append((layers[path], parameter, new))

    def __enter__(self) -> None:
        _assign(self._new)

    def __exit__(self, *_) -> None:
        _assign(self._own)


def _assign(parameters: list[tuple[Module, str, Parameter]]) -> None:
    for layer, name, parameter in parameters:
        layer._parameters[name] = parameter
