"""Pruned SDXL (SSD-1B, Segmind-Vega) on the meta device: every hook is where it should be, whatever blocks are left out.

Their published configurations differ from SDXL's in these keys: no attention in the middle, fewer transformer blocks.
"""

import pytest
import torch
from diffusers import UNet2DConditionModel

from svdstory.pipeline.bench.full_size import SDXL_UNET
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.sampling.call import Stage
from svdstory.pipeline.sampling.families import family_of, processor_of
from svdstory.pipeline.sampling.family import Pass
from svdstory.pipeline.sampling.layers import attention_layers
from svdstory.pipeline.sampling.masks import SubjectMasks
from svdstory.pipeline.sampling.noise import Draws
from svdstory.pipeline.spectral.bank import SpectralBank

PRUNED = {
    "ssd-1b": ((1, (2, 2), (4, 4)), ((4, 4, 10), (2, 1, 1), 1)),
    "vega": ((1, (1, 1), (2, 2)), ((2, 2, 2), (1, 1, 1), 1)),
}


def unet_of(name):
    down, up = PRUNED[name]
    changes = dict(transformer_layers_per_block=down, reverse_transformer_layers_per_block=up)
    with torch.device("meta"):
        return UNet2DConditionModel(**{**SDXL_UNET, **changes, "mid_block_type": "UNetMidBlock2D"})


@pytest.mark.parametrize("name, down, quarter, half", [("ssd-1b", 12, 18, 4), ("vega", 6, 6, 3)])
def test_every_hook_is_where_it_should_be(name, down, quarter, half):
    """quarter, half: self-attention layers of the up blocks at 32 × 32 and 64 × 64 of 128 × 128 latents."""
    unet = unet_of(name)
    layers = attention_layers(unet)
    selves = [layer for layer in layers if layer.kind == "attn1"]
    assert [sum(one.block == block for one in selves) for block in ("up0", "up1")] == [quarter, half]
    assert sum(one.part == "down_blocks" for one in selves) == down and not any(one.block == "mid" for one in selves)
    masks = SubjectMasks(torch.zeros(2, 1, dtype=torch.long), 128, 128, "cpu")
    method, bank = named("consistory"), SpectralBank(None, None, exact=True)
    run = Pass(method, unet, layers, torch.arange(50).flip(0) * 20, Draws(0), Stage(), masks, bank)
    put = {layer: type(processor_of(family_of(run))(layer)).__name__ for layer in layers}
    for layer, processor in put.items():
        expected = "ExtendedSelfAttention" if layer.part == "up_blocks" else "InjectedSelfAttention"
        assert processor == ("RecordingCrossAttention" if layer.kind == "attn2" else expected)
    assert unet.up_blocks[0].upsamplers and unet.up_blocks[0].resnets[0].out_channels == 1280  # DIFT features, H/2
