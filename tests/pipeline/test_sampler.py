"""Properties of the sampler, on the reference model (float32, CPU)."""

import copy
from collections import Counter

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, UNet2DConditionModel

from svdstory.pipeline.config.methods import FreeU, Method, SpectralFilter
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.sampling import noise
from svdstory.pipeline.sampling.families import processor_of
from svdstory.pipeline.sampling.families.consistory import ConsiStory
from svdstory.pipeline.sampling.family import Pass
from svdstory.pipeline.sampling.layers import attention_layers
from svdstory.pipeline.sampling.sampler import sample
from tests.pipeline import reference
from tests.pipeline.reference import conditioning, relative_error

FULL = Method(extended_attention="masked", n_anchors=2, mask_dropout=0.5, query_blending=True, feature_injection=True)
UNMASKED = Method(extended_attention="unmasked", n_anchors=2, query_blending=True)


LATENTS = noise.initial_latents(3, 4, (4, 8, 8))


def run(method, images=4, steps=10, scheduler=None, guidance=5.0, latents=None, **options):
    latents = LATENTS[:images] if latents is None else latents
    return sample(
        reference.unet(),
        scheduler or reference.scheduler(),
        conditioning(images),
        method,
        seed=3,
        steps=steps,
        guidance=guidance,
        latents=latents,
        **options,
    )


@pytest.mark.parametrize(
    "method",
    [FULL, Method(), UNMASKED.model_copy(update={"filter_k": SpectralFilter(keep_top=6)})],
    ids=["consistory", "sdxl", "svd"],
)
def test_images_do_not_depend_on_the_micro_batch(method):
    whole = run(method)
    for micro_batch in (1, 2):
        assert relative_error(run(method, micro_batch=micro_batch).latents, whole.latents) < 1e-5


def test_images_do_not_change_when_a_scene_is_added_after_them():
    few, many = run(FULL, images=3, micro_batch=1), run(FULL, images=4, micro_batch=1)
    assert relative_error(many.latents[:3], few.latents) < 1e-5


def test_mask_dropout_changes_images_and_is_drawn_from_the_sets_seed():
    none, half = FULL.model_copy(update={"mask_dropout": 0.0}), FULL
    first = run(half, steps=4)
    assert relative_error(first.latents, run(none, steps=4).latents) > 1e-4
    assert torch.equal(first.latents, run(half, steps=4).latents)


def test_global_generator_is_neither_read_nor_set():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = run(FULL, steps=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(run(FULL, steps=4).latents, first.latents)


def state_of(unet):
    freeu = [tuple(getattr(b, n, None) for n in ("s1", "s2", "b1", "b2")) for b in unet.up_blocks]
    hooks = [len(m._forward_hooks) for m in unet.modules()]
    return {name: id(p) for name, p in unet.attn_processors.items()}, freeu, hooks


def test_unet_is_put_back_on_exit_and_on_error():
    unet, method = reference.unet(), named("consistory")
    before = state_of(unet)
    run(method, steps=4)
    assert state_of(unet) == before

    def fail(step):
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        run(method, steps=4, on_step=fail)
    assert state_of(unet) == before


def test_scheduler_is_left_as_it_was():
    scheduler = reference.scheduler()
    scheduler.set_timesteps(7)
    before = copy.deepcopy(scheduler.__dict__)
    run(Method(), steps=4, scheduler=scheduler)
    assert scheduler.num_inference_steps == 7 and torch.equal(scheduler.timesteps, before["timesteps"])


@pytest.mark.parametrize("keep", [{"keep_fraction": 1.0}, {"keep_energy": 1.0}, {"keep_top": 10_000}])
def test_filter_that_keeps_everything_is_unmasked_attention(keep):
    keeping = UNMASKED.model_copy(update={"filter_k": SpectralFilter(**keep), "filter_v": SpectralFilter(**keep)})
    assert relative_error(run(keeping).latents, run(UNMASKED).latents) < 1e-6


@pytest.mark.parametrize("steps", [1, 2, 25, 30, 40])
def test_any_step_count_samples(steps):
    small = torch.randn(2, 4, 8, 8, generator=noise.generator("test"))
    assert torch.isfinite(run(FULL, images=2, steps=steps, latents=small).latents).all()


@pytest.mark.parametrize("size", [(16, 24), (24, 16), (8, 40)])
def test_sizes_need_not_be_square(size):
    latents = torch.randn(3, 4, *size, generator=noise.generator("test"))
    result = run(FULL, images=3, steps=10, latents=latents)
    assert result.latents.shape == latents.shape and result.masks.shape == (3, size[0] * size[1] // 4)


def test_without_guidance_there_is_no_uncond_half():
    batches = []
    handle = reference.unet().register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    result = run(FULL, images=3, steps=4, guidance=1.0)
    handle.remove()
    assert torch.isfinite(result.latents).all() and set(batches) == {1, 2}


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, EulerAncestralDiscreteScheduler])
def test_other_schedulers_give_the_same_images_at_any_micro_batch(scheduler):
    def make():
        return scheduler.from_config(reference.scheduler().config)

    assert (
        relative_error(
            run(FULL, steps=6, scheduler=make(), micro_batch=1).latents, run(FULL, steps=6, scheduler=make()).latents
        )
        < 1e-4
    )


def test_several_subject_tokens_are_the_union_of_their_masks():
    one = run(FULL, images=3, steps=3)
    base = conditioning(3)
    second = (base.subject_tokens + 1) % 77
    both = type(base)(**{**base.__dict__, "subject_tokens": torch.cat([base.subject_tokens, second], 1)})
    masks = {}
    for name, c in (("first", base), ("both", both)):
        masks[name] = sample(
            reference.unet(), reference.scheduler(), c, Method(), seed=3, steps=3, guidance=5.0, latents=LATENTS[:3]
        ).masks
    assert (masks["first"] & ~masks["both"]).sum() == 0 and masks["both"].sum() > masks["first"].sum()
    assert one.masks.dtype == torch.bool


def test_random_reference_is_drawn_anew_for_each_step_and_layer_from_the_seed():
    draws = {(s, l): noise.Draws(5).reference(s, l, 4) for s in range(8) for l in range(6)}
    assert set(draws.values()) == {0, 1, 2, 3}
    assert draws[2, 3] == noise.Draws(5).reference(2, 3, 4)
    method = Method(extended_attention="unmasked", reference="random", query_blending=True)
    assert relative_error(run(method).latents, run(Method()).latents) > 1e-4


FREEU = dict(s1=0.6, s2=0.4, b1=1.1, b2=1.2)


def test_freeu_is_the_one_diffusers_gives():
    unet, known, seen = copy.deepcopy(reference.unet()), conditioning(2), []
    unet.enable_freeu(**FREEU)
    run(Method(freeu=FreeU(**FREEU)), images=2, steps=1, guidance=1.0, on_step=seen.append)
    scheduler = reference.scheduler()
    scheduler.set_timesteps(1)
    with torch.no_grad():
        expected = unet(LATENTS[:2], scheduler.timesteps[0], **known.of(torch.arange(2), halves=1)).sample
    assert relative_error(seen[0].noise_pred, expected) < 1e-5


def test_a_callers_freeu_is_off_while_a_method_without_it_samples_and_then_on_again():
    unet = copy.deepcopy(reference.unet())
    unet.enable_freeu(**FREEU)
    before = state_of(unet)[:2]
    got = sample(
        unet, reference.scheduler(), conditioning(2), Method(), seed=3, steps=3, guidance=5.0, latents=LATENTS[:2]
    )
    assert torch.equal(got.latents, run(Method(), images=2, steps=3).latents)
    assert state_of(unet)[:2] == before


def test_counters_are_of_both_passes():
    filtered = UNMASKED.model_copy(update={"filter_k": SpectralFilter(keep_top=6)})
    once, twice = run(filtered, steps=4), run(filtered.model_copy(update={"feature_injection": True}), steps=4)
    assert twice.counters["matrices"] == 2 * once.counters["matrices"] > 0


def test_more_anchors_than_images_is_refused_before_sampling():
    with pytest.raises(InputError, match="n_anchors 5 with 3 images"):
        run(FULL.model_copy(update={"n_anchors": 5}), images=3)


def test_unet_calls_are_those_of_the_method():
    """n per pass for each group of images, and a tenth more for query blending."""
    calls = []
    handle = reference.unet().register_forward_hook(lambda *a: calls.append(1))
    run(FULL, images=2, steps=20)
    handle.remove()
    assert len(calls) == 2 * (20 + 2)


def test_full_size_sdxl_has_every_hook_where_the_method_needs_it():
    config = dict(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    assert round(sum(p.numel() for p in unet.parameters()) / 1e9, 2) == 2.57
    layers = attention_layers(unet)
    names = [layer.name for layer in layers if layer.kind == "attn1"]
    assert len(names) == 70 and sum(n.startswith("up_blocks") for n in names) == 36
    widths = [m.to_k.out_features for n, m in unet.named_modules() if n.endswith("attn1") and n.startswith("up")]
    assert widths.count(1280) == 30 and widths.count(640) == 6
    family = ConsiStory(Pass(named("consistory"), unet, layers, torch.arange(50), None, None, None, None))
    placed = Counter(type(processor_of(family)(layer)).__name__ for layer in layers)
    assert placed == {
        "ExtendedSelfAttention": 36,
        "InjectedSelfAttention": 24,
        "NoneType": 10,
        "RecordingCrossAttention": 70,
    }
