"""What each way of tuning trains, put on a pipeline and taken off: rows of a token, LoRA, or cross-attention's K and V."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor
from torch.nn import Parameter

from svdstory.pipeline.config.tuning import CUSTOM, DREAMBOOTH, INVERSION, INVERSION_FILE, WEIGHTS_FILES, Recipe, Word
from svdstory.pipeline.personal.custom_diffusion import CustomWeights, cross_projections, names_in_file
from svdstory.pipeline.personal.placeholders import embedding_of, placeholders
from svdstory.pipeline.sampling.noise import generator

LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]  # of every attn1 and attn2
RARE_WORD = "ktn"  # whose row Custom Diffusion's token begins at, as in diffusers' example
ADAPTER = "svdstory-learner"

Files = dict[str, dict[str, Tensor]]  # name -> tensors, as others read them


@dataclass(frozen=True)
class Learner:
    """parameters: name -> float32; rates: of each; files: what it has learned; text: whether the prompts' encoding
    changes with it; largest_norm: gradients are clipped to it."""

    parameters: dict[str, Parameter]
    rates: dict[str, float]
    files: Callable[[], Files]
    text: bool
    weight_decay: float
    largest_norm: float | None


@contextmanager
def learner(pipe, recipe: Recipe, key: str, initial: str) -> Iterator[Learner]:
    """The recipe's learner on the pipeline, whose own weights stand still. initial: the word that the row begins at."""
    parts = (pipe.unet, pipe.text_encoder, pipe.text_encoder_2, pipe.vae)
    learns = [(weight, weight.requires_grad) for part in parts for weight in part.parameters()]
    for weight, _ in learns:
        weight.requires_grad_(False)
    try:
        with KINDS[recipe.kind](pipe, recipe, key, initial) as made:
            yield made
    finally:
        for weight, was in learns:
            weight.requires_grad_(was)
            weight.grad = None


@contextmanager
def inversion(pipe, recipe: Recipe, key: str, initial: str) -> Iterator[Learner]:
    """V rows in each encoder, all of them at the initial word's embedding."""
    [word] = recipe.words()
    rows = _rows(pipe, initial, word)
    named = dict(zip(("clip_l", "clip_g"), rows))
    rates = dict.fromkeys(named, recipe.rate)
    with placeholders(pipe, {word: rows}):
        yield Learner(named, rates, lambda: {INVERSION_FILE: _kept(named)}, True, 0.0, None)


@contextmanager
def lora(pipe, recipe: Recipe, key: str, initial: str) -> Iterator[Learner]:
    """W + (alpha / r) B A on attention's matrices: B = 0, A normal with a deviation of 1 / r, of (key, name) alone."""
    unet = pipe.unet
    config = LoraConfig(
        r=recipe.rank, lora_alpha=recipe.rank, target_modules=LORA_TARGETS, init_lora_weights="gaussian"
    )
    with torch.random.fork_rng(devices=[]):  # peft draws, too; what it drew is replaced below
        unet.add_adapter(config, adapter_name=ADAPTER)
    try:
        named = {}
        for name, weight in unet.named_parameters():
            if ".lora_" not in name:
                continue
            weight.data = weight.data.float()
            if ".lora_A." in name:
                drawn = torch.randn(weight.shape, generator=generator("tune", key, "lora", name)) / recipe.rank
                weight.data.copy_(drawn)
            named[name] = weight.requires_grad_(True)

        def files() -> Files:
            found = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet, adapter_name=ADAPTER))
            return {WEIGHTS_FILES[DREAMBOOTH]: _kept({f"unet.{name}": weight for name, weight in found.items()})}

        yield Learner(named, dict.fromkeys(named, recipe.rate), files, False, 1e-2, 1.0)
    finally:
        unet.unload_lora()


@contextmanager
def custom(pipe, recipe: Recipe, key: str, initial: str) -> Iterator[Learner]:
    """Cross-attention's to_k and to_v, from copies in float32, and one row in each encoder."""
    [word] = recipe.words()
    rows = _rows(pipe, RARE_WORD, word)
    layers = cross_projections(pipe.unet)
    weights = {name: Parameter(layer.weight.detach().float().clone()) for name, layer in layers.items()}
    named = {**weights, **dict(zip(("clip_l", "clip_g"), rows))}
    rates = {name: recipe.rate if name in weights else recipe.row_rate for name in named}

    def files() -> Files:
        half = {name: weight.to(pipe.unet.dtype) for name, weight in _kept(weights).items()}
        return {
            WEIGHTS_FILES[CUSTOM]: names_in_file(half),
            INVERSION_FILE: _kept({name: named[name] for name in ("clip_l", "clip_g")}),
        }

    with placeholders(pipe, {word: rows}), CustomWeights(pipe.unet, weights):
        yield Learner(named, rates, files, True, 1e-2, 1.0)


KINDS = {INVERSION: inversion, DREAMBOOTH: lora, CUSTOM: custom}


def _rows(pipe, initial: str, word: Word) -> tuple[Parameter, Parameter]:
    device = pipe.text_encoder.device
    return tuple(Parameter(row.repeat(word.rows, 1).to(device)) for row in embedding_of(pipe, initial))


def _kept(named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.detach().to("cpu").contiguous().clone() for name, weight in named.items()}
