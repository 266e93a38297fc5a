"""A compiled or PEFT-wrapped UNet is sampled as the one inside it, and what holds no layers is refused."""

import copy

import peft
import pytest
import torch

from svdstory.pipeline.config.methods import Method, SpectralFilter
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.sampling import noise
from svdstory.pipeline.sampling.denoiser import Conditioning
from svdstory.pipeline.sampling.layers import attention_layers
from svdstory.pipeline.sampling.sampler import sample
from tests.pipeline import reference

TOP = SpectralFilter(keep_top=6)
METHODS = {
    "consistory": named("consistory"),
    "svd": Method(extended_attention="unmasked", n_anchors=2, query_blending=True, filter_k=TOP, filter_v=TOP),
}
LATENTS = noise.initial_latents(3, 3, (4, 8, 8))


def unet():
    """In float64, so that rounding doesn't tip a mask over."""
    return copy.deepcopy(reference.unet()).double()


def run(unet, method, steps=10):
    told = vars(reference.conditioning(3)).items()
    known = {name: x.double() if torch.is_tensor(x) and x.is_floating_point() else x for name, x in told}
    options = dict(seed=3, steps=steps, guidance=5.0, latents=LATENTS, micro_batch=1)
    return sample(unet, reference.scheduler(), Conditioning(**known), method, **options).latents


@pytest.fixture(scope="module")
def compiled():
    """Compiled, and run as it is before any method is on it."""
    torch.compiler.reset()
    wrapped = torch.compile(unet(), backend="eager")
    run(wrapped, Method(), steps=1)
    yield wrapped
    torch.compiler.reset()


@pytest.mark.parametrize("name", METHODS)
def test_compiled_unet_gives_what_the_plain_one_gives(name, compiled):
    expected = run(unet(), METHODS[name])
    assert reference.relative_error(run(unet(), Method()), expected) > 1e-3
    assert reference.relative_error(run(compiled, METHODS[name]), expected) < 1e-5


@pytest.mark.parametrize("name", METHODS)
def test_lora_wrapped_unet_gives_what_its_merged_weights_give(name):
    torch.manual_seed(0)
    lora = peft.LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False)
    wrapped = peft.get_peft_model(unet(), lora).eval()
    merged = copy.deepcopy(wrapped).merge_and_unload()
    expected = run(merged, METHODS[name])
    assert reference.relative_error(run(unet(), METHODS[name]), expected) > 1e-3
    assert reference.relative_error(run(wrapped, METHODS[name]), expected) < 1e-5


def test_a_model_without_sdxls_layers_is_refused_by_name():
    with pytest.raises(InputError, match="Linear holds no UNet"):
        attention_layers(torch.nn.Linear(2, 2))
    bare = torch.nn.ModuleDict({"down_blocks": torch.nn.Identity(), "mid_block": torch.nn.Identity()})
    bare["up_blocks"] = torch.nn.Identity()
    with pytest.raises(InputError, match="no attn1 and no attn2"):
        attention_layers(bare)
