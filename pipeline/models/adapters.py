"""LoRA on a pipeline for the length of a unit, by diffusers' loaders and peft: wholly, or not at all."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch.nn import Parameter

from svdstory.pipeline.config.lora import Lora
from svdstory.pipeline.config.strict import InputError

# a file for the UNet alone is no mistake: the text encoders' share is looked for in every one
logging.getLogger("diffusers.loaders.lora_base").addFilter(
    lambda record: "No LoRA keys associated to CLIPTextModel" not in record.getMessage()
)
COMPONENTS = ("unet", "text_encoder", "text_encoder_2")


@contextmanager
def adapted(pipe, loras: Sequence[Lora], prefix: str = "svdstory") -> Iterator[None]:
    """W + sum_i scale_i B_i A_i for every weight W that the LoRA name; the pipeline's own adapters stay on beside them.

    All is put back on exit, also after an error. Raises InputError for a file of which anything finds no place.
    """
    if not loras:
        yield
        return
    before, learns = _active(pipe), [(weight, weight.requires_grad) for weight in _weights(pipe)]
    names = [f"{prefix}-{number}" for number in range(len(loras))]
    try:
        for name, lora in zip(names, loras):
            _load(pipe, lora, name)
        pipe.set_adapters([*before, *names], adapter_weights=[*before.values(), *(lora.scale for lora in loras)])
        yield
    finally:
        loaded = {name for of_component in pipe.get_list_adapters().values() for name in of_component}
        if loaded - set(names):
            pipe.delete_adapters([name for name in names if name in loaded])
            pipe.set_adapters(list(before), adapter_weights=list(before.values()))
        else:
            pipe.unload_lora_weights()
        for weight, was in learns:  # peft lets nothing but adapters learn
            weight.requires_grad_(was)


def _weights(pipe) -> Iterator[Parameter]:
    for component in COMPONENTS:
        if (module := getattr(pipe, component, None)) is not None:
            yield from module.parameters()


def _load(pipe, lora: Lora, name: str) -> None:
    weights, _ = pipe.lora_state_dict(lora.file, unet_config=pipe.unet.config, local_files_only=True)
    try:
        pipe.load_lora_weights(lora.file, adapter_name=name, local_files_only=True)
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"LoRA {lora.file}: does not fit this model: {str(error)[:300]}") from error
    asked, found = {_place(key) for key in weights if ".alpha" not in key}, set(_places(pipe, name))
    if missing := sorted(asked - found):
        raise InputError(
            f"LoRA {lora.file}: {len(missing)} of its {len(asked)} places are not in this model, for example "
            f"{missing[0]}: it would be half applied. Is it another model's?"
        )


def _place(key: str) -> str:
    """The module that a LoRA tensor belongs to: unet.down_blocks.1....to_q."""
    for end in (".lora_A", ".lora_B", ".lora.", ".lora_linear_layer.", "_lora."):
        key = key.partition(end)[0]
    key = key.replace(".text_model.", ".").replace(".processor", "")
    if key.startswith("text_encoder"):  # diffusers' older names
        return re.sub(r"\.to_(q|k|v|out)$", r".\1_proj", key)
    return f"{key}.0" if key.endswith(".to_out") else key


def _places(pipe, name: str) -> Iterator[str]:
    for component in COMPONENTS:
        module = getattr(pipe, component, None)
        for path, layer in module.named_modules() if module is not None else ():
            if name in getattr(layer, "lora_A", {}):
                yield f"{component}.{path}".replace(".text_model.", ".")


def _active(pipe) -> dict[str, float]:
    """Adapters that the caller has put on: name -> its scale."""
    scales = {}
    for name in pipe.get_active_adapters():
        layers = (layer for layer in pipe.unet.modules() if name in getattr(layer, "scaling", {}))
        scales[name] = next((layer.scaling[name] * layer.r[name] / layer.lora_alpha[name] for layer in layers), 1.0)
    return scales
