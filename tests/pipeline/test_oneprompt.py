"""One-Prompt-One-Story from a prompt set to latents, with a model's own text encoders."""

import pytest
import torch

from svdstory.pipeline import generate, load_model, named
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.encoding import encode

SETTINGS = ("standing in water at dawn", "in the snow", "standing in water")
HERON = PromptSet(style="a sketch of", subject="a heron", concept=("heron",), settings=SETTINGS)


@pytest.fixture(scope="module")
def model():
    return load_model("tiny", "cpu")


def embeds(model, name: str) -> torch.Tensor:
    return encode(model, HERON, (128, 128), named(name).oneprompt).prompt_embeds


def test_start_token_and_identity_are_the_same_in_every_text_and_never_reweighted(model):
    plain, svr = embeds(model, "oneprompt-ipca"), embeds(model, "oneprompt")
    known = encode(model, HERON, (128, 128), named("oneprompt").oneprompt)
    assert known.identity_tokens == 6  # the start token, a sketch of a heron
    assert torch.allclose(plain[:, :6], svr[:, :6], atol=1e-6) and (svr[0] - svr[1]).abs().max() > 1e-3
    assert known.subject_tokens.tolist() == [[5]] * 3


def test_both_encoders_are_reweighted(model):
    widths = [encoder.config.hidden_size for encoder in (model.pipe.text_encoder, model.pipe.text_encoder_2)]
    first, second = (embeds(model, "oneprompt")[0] - embeds(model, "oneprompt")[1]).split(widths, dim=-1)
    assert first.abs().max() > 1e-3 and second.abs().max() > 1e-3


def test_a_setting_found_inside_another_is_counted(model):
    made = generate(model, HERON, named("oneprompt"), steps=1, size=(128, 128))
    assert made.counters["settings_found_elsewhere"] == 1
    assert "settings_found_elsewhere" not in generate(model, HERON, named("sdxl"), steps=1, size=(128, 128)).counters


def test_text_goes_with_svd_attention(model):
    text, both = (
        generate(model, HERON, named(name), steps=3, size=(128, 128)) for name in ("oneprompt", "oneprompt-svd")
    )
    assert both.counters["matrices"] > 0 == text.counters["matrices"]
    assert not torch.allclose(text.sample.latents, both.sample.latents, atol=1e-3)


def test_a_setting_inside_the_identity_is_refused(model):
    rain = HERON.model_copy(update={"subject": "a heron in the snow"})
    with pytest.raises(InputError, match="'in the snow' also stands inside 'a sketch of a heron in the snow'"):
        generate(model, rain, named("oneprompt"), steps=1, size=(128, 128))
