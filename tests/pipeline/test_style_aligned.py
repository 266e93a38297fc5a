"""StyleAligned's equations, and what a set sampled by it keeps."""

import pytest
import torch
from diffusers.models.attention_processor import Attention

from svdstory.pipeline.config.families import StyleAligned
from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.sampling import noise
from svdstory.pipeline.sampling.attention import attend
from svdstory.pipeline.sampling.call import Call, Group, Stage, StepPlan
from svdstory.pipeline.sampling.families.style_aligned import AlignedSelfAttention, adain, shared_norm, statistics
from svdstory.pipeline.sampling.sampler import sample
from tests.pipeline import reference
from tests.pipeline.test_sampler import state_of

PUBLISHED = named("style-aligned").style_aligned
LATENTS = noise.initial_latents(3, 3, (4, 16, 16))


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 2 + 1


def run(switches: StyleAligned | None, micro_batch: int | None = None, guidance: float = 5.0) -> torch.Tensor:
    options = dict(seed=3, steps=5, guidance=guidance, latents=LATENTS, micro_batch=micro_batch)
    method = Method(style_aligned=switches)
    return sample(reference.unet(), reference.scheduler(), reference.conditioning(3), method, **options).latents


def test_adain_is_the_papers_loop():
    x, ref = drawn(2, 7, 6), drawn(2, 9, 6)
    for n in range(2):
        for c in range(6):
            own, other = x[n, :, c].double(), ref[n, :, c].double()
            std, std_ref = (own.var() + 1e-5).sqrt(), (other.var() + 1e-5).sqrt()
            expected = (own - own.mean()) / std * std_ref + other.mean()
            assert torch.allclose(adain(x, statistics(ref))[n, :, c].double(), expected, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_image_0_is_plain_sdxls_and_the_others_are_not(shared):
    plain, aligned = run(None), run(PUBLISHED.model_copy(update={"shared_norms": shared}))
    assert reference.relative_error(aligned[0], plain[0]) < 1e-5
    assert min(reference.relative_error(aligned[i], plain[i]) for i in (1, 2)) > 1e-3


@pytest.mark.parametrize("change", [{}, {"full_sharing": True}, {"shared_norms": False}], ids=str)
def test_images_do_not_depend_on_the_micro_batch(change):
    switches = PUBLISHED.model_copy(update=change)
    assert reference.relative_error(run(switches, micro_batch=1), run(switches)) < 1e-5
    assert torch.isfinite(run(switches, guidance=1.0)).all()


@pytest.mark.parametrize(
    "change",
    [
        {"adain_queries": False},
        {"adain_keys": False},
        {"adain_values": True},
        {"scale": 0.5},
        {"shift": 0.6931},
        {"full_sharing": True},
        {"shared_norms": False},
    ],
    ids=str,
)
def test_every_switch_changes_the_images(change):
    assert reference.relative_error(run(PUBLISHED.model_copy(update=change)), run(PUBLISHED)) > 1e-4


def layer_call(switches: StyleAligned, rows: int = 3):
    """The layer's output for image 0, then for the others; and the layer and its input."""
    layer = Attention(query_dim=16, heads=2, dim_head=8)
    torch.manual_seed(0)
    for weight in layer.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    x, stage, memory = drawn(2, rows, 5, 16), Stage(), {}
    processor = AlignedSelfAttention(0, stage, switches)
    groups = [Group([0], None, True, False), Group(list(range(1, rows)), None, False, True)]
    with torch.no_grad():
        outputs = []
        for group in groups:
            with stage.showing(Call(group, StepPlan(0), 2, memory)):
                outputs.append(processor(layer, x[:, group.rows].flatten(0, 1)).unflatten(0, (2, -1)))
    return torch.cat(outputs, 1), layer, x


def test_with_image_0_shifted_away_every_image_is_its_own_aligned_attention():
    got, layer, x = layer_call(PUBLISHED.model_copy(update={"shift": -1e4}))
    with torch.no_grad():
        q, k, v = (f(x) for f in (layer.to_q, layer.to_k, layer.to_v))
        q, k = adain(q, statistics(q[:, :1])), adain(k, statistics(k[:, :1]))
        expected = attend(layer, *(y.flatten(0, 1) for y in (q, k, v))).unflatten(0, (2, -1))
    assert torch.allclose(got, expected, atol=1e-5)


def test_attention_is_the_papers_equation():
    got, layer, x = layer_call(PUBLISHED.model_copy(update={"scale": 0.7, "shift": 0.4}))
    with torch.no_grad():
        q, k, v = (f(x).double() for f in (layer.to_q, layer.to_k, layer.to_v))
        aligned_q, aligned_k = (
            adain(q, statistics(q[:, :1]))[1, 2],
            adain(k, statistics(k[:, :1]))[1, 2],
        )  # cond, image 2
        heads = []
        for h in range(2):
            d = slice(8 * h, 8 * h + 8)
            own = aligned_q[:, d] @ aligned_k[:, d].T / 8**0.5
            other = 0.7 * aligned_q[:, d] @ k[1, 0, :, d].T / 8**0.5 + 0.4
            heads.append(torch.cat([own, other], 1).softmax(1) @ torch.cat([v[1, 2, :, d], v[1, 0, :, d]]))
        expected = layer.to_out[0](torch.cat(heads, 1).float())
    assert torch.allclose(got[1, 2], expected, atol=1e-5)


def test_shared_normalisation_is_torchs_over_both_images():
    norm = torch.nn.GroupNorm(2, 6)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    x, memory = drawn(2, 6, 4, 4), {}
    with torch.no_grad():
        first, second = Group([0], None, True, False), Group([1], None, False, True)
        shared_norm(Call(first, StepPlan(0), 1, memory), "n", norm, (x[:1],), norm(x[:1]))
        got = shared_norm(Call(second, StepPlan(0), 1, memory), "n", norm, (x[1:],), norm(x[1:]))
        expected = norm(torch.cat([x[1:], x[:1]], dim=2))[:, :, :4]
    assert torch.allclose(got, expected, atol=1e-5)


def test_unet_is_put_back():
    before = state_of(reference.unet())
    run(PUBLISHED)
    assert state_of(reference.unet()) == before
