"""A method on a stock pipeline that runs its own loop."""

import pytest
import torch

from svdstory.pipeline import attach, generate
from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.config.tokens import subject_positions
from svdstory.pipeline.encoding import tokenizer_of
from svdstory.pipeline.generation import make_scheduler
from svdstory.pipeline.models.load import load_model
from svdstory.pipeline.sampling.noise import initial_latents
from tests.pipeline.reference import relative_error
from tests.pipeline.test_sampler import state_of

FOX = PromptSet(style="a photo of", subject="a fox", concept=("fox",), settings=("in snow", "in rain", "asleep"))
SIDE, STEPS = 128, 4


@pytest.fixture(scope="module")
def model():
    model = load_model("tiny", "cpu")
    model.pipe.scheduler = make_scheduler("ddim", model.pipe.scheduler)
    return model


def stock(pipe, guidance):
    side = SIDE // pipe.vae_scale_factor
    latents = initial_latents(0, 3, (4, side, side))
    settings = dict(num_inference_steps=STEPS, guidance_scale=guidance, height=SIDE, width=SIDE, output_type="latent")
    return pipe(FOX.prompts, latents=latents, **settings).images


@pytest.mark.parametrize("guidance", [5.0, 1.0])
@pytest.mark.parametrize(
    "name", ["svd-fraction-0.05-no-injection", "consistory-no-injection", "storydiffusion", "style-aligned"]
)
def test_stock_pipeline_with_a_method_attached_draws_what_generate_draws(name, guidance, model):
    method, pipe = named(name), model.pipe
    expected = generate(model, FOX, method, steps=STEPS, size=(SIDE, SIDE), guidance=guidance).sample.latents
    tokens = [subject_positions(text, FOX.concept, tokenizer_of(pipe)) for text in FOX.prompts]
    before, plain = state_of(pipe.unet), stock(pipe, guidance)
    with attach(pipe, method, images=3, subject_tokens=torch.tensor(tokens), micro_batch=1):
        first, second = stock(pipe, guidance), stock(pipe, guidance)
    assert relative_error(first, expected) < 1e-4 and torch.equal(first, second)
    assert relative_error(plain, expected) > 1e-3
    assert state_of(pipe.unet) == before and torch.equal(stock(pipe, guidance), plain)


def test_pipeline_is_put_back_after_an_error(model):
    before = state_of(model.pipe.unet)
    with pytest.raises(InputError, match="called with 6 rows, expected 4 or 8"):
        with attach(model.pipe, named("unmasked-no-injection"), images=4):
            stock(model.pipe, 5.0)
    assert state_of(model.pipe.unet) == before and "forward" not in vars(model.pipe.unet)


@pytest.mark.parametrize(
    "method, reason",
    [
        (named("consistory"), "feature_injection draws the set twice"),
        (named("oneprompt"), "oneprompt writes the prompts itself"),
        (named("consistory-no-injection"), "needs subject_tokens"),
        (Method(extended_attention="unmasked", n_anchors=5), "n_anchors 5 with 3 images"),
    ],
)
def test_what_a_loop_of_ones_own_cannot_do_is_refused(method, reason, model):
    with pytest.raises(InputError, match=reason):
        with attach(model.pipe, method, images=3):
            raise AssertionError("not refused")
