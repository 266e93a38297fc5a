"""Methods of different papers together: what composes does what it says, what cannot is refused with the reason."""

import pytest
import torch

from svdstory.pipeline import generate, named
from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError, parse
from svdstory.pipeline.models.load import load_model

FOX = PromptSet(style="a photo of", subject="a fox", concept=("fox",), settings=("in snow", "in rain", "asleep"))
STORY = {"id_images": 2, "s_quarter": 1.0, "s_half": 1.0, "warmup_steps": 0, "warmup_reads_bank": False, "gate": False}
ALIGNED = named("style-aligned").style_aligned.model_dump()


@pytest.fixture(scope="module")
def latents():
    """method -> the latents (B, C, H, W) that it ends with, sampled once, and the counters."""
    model, known = load_model("tiny", "cpu"), {}

    def of(method: Method) -> torch.Tensor:
        key = repr(method.switches())
        if key not in known:
            known[key] = generate(model, FOX, method, steps=3, size=(128, 128), exact_filter=True).sample
        return known[key].latents

    of.counters = lambda method: known[repr(method.switches())].counters
    return of


def story(filter_=None, **changes) -> Method:
    filters = {"filter_k": filter_, "filter_v": filter_} if filter_ else {}
    return parse(Method, {"storydiffusion": {**STORY, **changes}, **filters}, "test")


def test_a_filter_on_storydiffusions_bank_that_keeps_everything_changes_nothing(latents):
    torch.testing.assert_close(latents(story({"keep_fraction": 1.0})), latents(story()), atol=1e-4, rtol=1e-4)


def test_a_filter_on_storydiffusions_bank_changes_what_others_see_and_never_an_images_own_tokens(latents):
    filtered, plain = latents(story({"keep_top": 1})), latents(story())
    assert all((filtered[i] - plain[i]).abs().max() > 1e-3 for i in range(3))
    alone, sdxl = latents(story({"keep_top": 1}, id_images=1)), latents(Method())
    torch.testing.assert_close(alone[0], sdxl[0], atol=1e-4, rtol=1e-3)  # the one identity image looks at itself
    assert (alone[1] - sdxl[1]).abs().max() > 1e-3


def test_storydiffusions_filter_takes_each_identity_image_once_a_step_and_layer(latents):
    method = story({"keep_top": 1})
    latents(method)
    layers = 2 * 2 * 2  # K and V, two halves, two identity images
    counted = latents.counters(method)
    assert counted["matrices"] > 0 and counted["matrices"] % layers == 0


def test_one_prompts_text_with_svd_attention_is_both(latents):
    text = named("oneprompt-svr").model_copy(update={"freeu": None})
    svd = {"extended_attention": "unmasked", "n_anchors": 1}
    both = text.model_copy(update={**svd, "filter_k": named("svd-top-16").filter_k})
    both = parse(Method, both.model_dump(mode="json"), "test")
    assert both.family() == "consistory"
    torch.testing.assert_close(latents(both)[0], latents(text)[0], atol=1e-4, rtol=1e-3)  # the anchor sees itself alone
    assert (latents(both)[1] - latents(text)[1]).abs().max() > 1e-3


def test_style_aligned_goes_with_one_prompts_text(latents):
    text = named("oneprompt-svr").model_copy(update={"freeu": None})
    aligned = {**ALIGNED, "shared_norms": False}
    both = parse(Method, {**text.model_dump(mode="json"), "style_aligned": aligned}, "test")
    torch.testing.assert_close(latents(both)[0], latents(text)[0], atol=1e-4, rtol=1e-4)  # image 0 is the reference
    assert (latents(both)[1] - latents(text)[1]).abs().max() > 1e-3


UNMASKED = {"extended_attention": "unmasked", "n_anchors": 1}


@pytest.mark.parametrize(
    "switches, reason",
    [
        ({"storydiffusion": STORY, **UNMASKED}, "storydiffusion and extended_attention exclude each other"),
        ({"storydiffusion": STORY, "style_aligned": ALIGNED}, "storydiffusion and style_aligned exclude each other"),
        ({"style_aligned": ALIGNED, **UNMASKED}, "style_aligned and extended_attention exclude each other"),
        ({"storydiffusion": STORY, "query_blending": True}, "query_blending would do nothing"),
        (
            {"style_aligned": ALIGNED, "feature_injection": True, "n_anchors": 1},
            "style_aligned and feature_injection exclude",
        ),
        (
            {"style_aligned": ALIGNED, "filter_k": {"keep_top": 1}},
            "needs extended_attention: unmasked or masked, or storydiff",
        ),
        ({"storydiffusion": STORY, "mask_dropout": 0.5}, "mask_dropout 0.5 needs extended_attention: masked"),
        ({"storydiffusion": STORY, "n_anchors": 2}, "n_anchors 2 would do nothing"),
        ({"storydiffusion": STORY, "reference": "random"}, "reference: random needs extended_attention"),
    ],
)
def test_what_cannot_go_together_is_refused_with_the_reason(switches, reason):
    with pytest.raises(InputError) as error:
        parse(Method, switches, "test")
    assert reason in str(error.value)
