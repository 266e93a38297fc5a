"""What callers of diffusers' pipelines give: latents, generators, embeddings, seeds, callbacks; offloaded pipelines."""

import pytest
import torch

from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.generation import generate
from svdstory.pipeline.models.load import load_model
from svdstory.pipeline.models.tiny import build_tiny

FOX = PromptSet(style="A photo of", subject="a red fox", concept=("fox",), settings=("in the snow", "at the beach"))
SETTINGS = dict(steps=2, size=(64, 64))


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny", device="cpu")


def generators():
    return [torch.Generator().manual_seed(i) for i in (3, 4)]


def test_generators_draw_the_stock_pipelines_noise(tiny):
    expected = tiny.pipe(
        FOX.prompts, generator=generators(), num_inference_steps=2, guidance_scale=5.0, height=64, width=64,
        output_type="latent",
    ).images  # fmt: skip
    made = generate(tiny.pipe, FOX, named("sdxl-no-freeu"), generator=generators(), **SETTINGS).sample.latents
    assert torch.allclose(made, expected, atol=1e-3)


def test_an_images_own_seed_gives_it_that_seeds_first_noise(tiny):
    plain = named("sdxl-no-freeu")
    both = generate(tiny, FOX, plain, seed=[7, 8], **SETTINGS).sample.latents
    beach = FOX.model_copy(update={"settings": FOX.settings[1:]})
    assert torch.allclose(both[1:], generate(tiny, beach, plain, seed=8, **SETTINGS).sample.latents, atol=1e-4)


def test_latents_and_embeddings_are_taken_as_they_are(tiny):
    method, noise = named("consistory"), torch.randn(2, 4, 8, 8, generator=generators()[0])
    embeds = tiny.pipe.encode_prompt(["a dog", "a cat"], device="cpu", negative_prompt=["blurry"] * 2)
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    one = generate(tiny, FOX, method, latents=noise, seed=1, **SETTINGS).sample.latents
    other = generate(tiny, FOX, method, latents=noise, seed=1, **dict(zip(names, embeds)), **SETTINGS).sample.latents
    again = generate(tiny, FOX, method, latents=noise, seed=1, **SETTINGS).sample.latents
    assert not torch.allclose(one, other, atol=1e-2) and torch.equal(one, again)


def test_a_callback_changes_the_latents(tiny):
    seen = []

    def doubled(pipe, step, timestep, known):
        seen.append((step, int(timestep)))
        return {"latents": known["latents"] * 2}

    plain, steps = named("sdxl-no-freeu"), []
    made = generate(tiny, FOX, plain, callback_on_step_end=doubled, on_step=steps.append, **SETTINGS).sample.latents
    assert seen == [(0, 501), (1, 1)] and torch.allclose(made, 2 * steps[1].latents)
    with pytest.raises(InputError, match="returned prompt_embeds: only latents can be changed"):
        generate(tiny, FOX, plain, callback_on_step_end=lambda *_: {"prompt_embeds": None}, **SETTINGS)


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(seed=[1]), "seed: got 1, expected one for each of the set's 2 images"),
        (dict(generator=generators()[:1]), "generator: got 1"),
        (dict(latents=torch.zeros(2, 4, 16, 16)), "expected .2, 4, 8, 8. for this size"),
        (dict(latents=torch.zeros(2, 4, 8, 8), generator=generators()), "Give one"),
    ],
)
def test_what_does_not_fit_the_set_is_refused(tiny, given, message):
    with pytest.raises(InputError, match=message):
        generate(tiny, FOX, named("sdxl"), **given, **SETTINGS)


def offloaded(how):
    from accelerate import cpu_offload
    from diffusers.hooks import apply_group_offloading

    pipe = build_tiny()
    for part in (pipe.unet, pipe.text_encoder, pipe.text_encoder_2):
        if how == "sequential":
            cpu_offload(part, execution_device="cpu", offload_buffers=True)
        else:
            cpu = torch.device("cpu")
            apply_group_offloading(part, onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
    return pipe


@pytest.mark.parametrize("how", ["sequential", "group"])
def test_an_offloaded_pipeline_draws_the_same(tiny, how):
    pipe = offloaded(how)
    assert how == "group" or pipe.unet.device.type == "meta"
    made, expected = (generate(p, FOX, named("consistory"), **SETTINGS).sample.latents for p in (pipe, tiny.pipe))
    assert torch.allclose(made, expected, atol=1e-4)
