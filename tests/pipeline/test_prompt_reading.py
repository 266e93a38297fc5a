"""Negative prompts, prompts of several chunks, weights: what the UNet is told, and where the subject stands in it."""

import pytest
import torch

from svdstory.jobs.study.command_line import command
from svdstory.jobs.study.notes import notes
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.prompt_reading import positions_in, read_prompt
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.config.tokens import tokenizer_of
from svdstory.pipeline.encoding import encode
from svdstory.pipeline.generation import generate
from svdstory.pipeline.models.load import load_model
from tests.pipeline.test_loras import YAML, plan_of

FOX = PromptSet(style="A photo of", subject="a red fox", concept=("fox",), settings=("in the snow", "at the beach"))
LONG = "in the snow" + " beside a very quiet lake" * 16 + " with another fox"
SETTINGS = dict(steps=2, size=(64, 64))


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny", device="cpu")


def test_a_negative_prompt_is_what_guidance_leads_away_from(tiny):
    against = FOX.model_copy(update={"negative": "blurry"})
    told = encode(tiny, against, (64, 64))
    expected = tiny.pipe.encode_prompt(FOX.prompts, device="cpu", negative_prompt=["blurry"] * 2)
    assert torch.equal(told.negative_prompt_embeds, expected[1]) and torch.equal(told.prompt_embeds, expected[0])
    assert torch.equal(told.negative_pooled_prompt_embeds, expected[3])
    one, other = (generate(tiny, s, named("consistory"), **SETTINGS).sample.latents for s in (FOX, against))
    assert not torch.allclose(one, other, atol=1e-2)


def test_a_sets_own_negative_prompt_wins_and_enters_the_key(tmp_path):
    own = plan_of(tmp_path, YAML + "negative: dark\n", negative="blurry")
    assert own.sets["fox"].negative == "dark"
    plain, blurry = plan_of(tmp_path), plan_of(tmp_path, negative="blurry")
    assert blurry.sets["fox"].negative == "blurry" and len({*own.units, *plain.units, *blurry.units}) == 3
    assert "--set 'negative=\"blurry\"'" in command(blurry)


def test_a_long_prompt_is_refused_unless_it_may_be_chunked(tmp_path):
    text = YAML.replace("at the beach", LONG)
    with pytest.raises(InputError, match="Shorten it, or set long_prompts: chunk"):
        plan_of(tmp_path, text)
    with pytest.raises(InputError, match="prompt set fox, negative: prompt has"):
        plan_of(tmp_path, negative=LONG)
    assert plan_of(tmp_path, text, long_prompts="chunk", negative=LONG).units.keys() != plan_of(tmp_path).units.keys()
    with pytest.raises(InputError, match="oneprompt writes the texts itself"):
        plan_of(tmp_path, long_prompts="chunk", negative=LONG, methods=["oneprompt"])


def test_chunks_end_at_words_and_the_subject_is_found_in_each():
    tokenizer = tokenizer_of(None)
    reading = read_prompt(f"A photo of a red fox {LONG}", tokenizer, chunked=True)
    assert len(reading.chunks) == 2 and " ".join(reading.chunks) == reading.plain and max(reading.counts) <= 75
    first, second = positions_in(reading, ("fox",), tokenizer)
    assert tokenizer.tokens(reading.chunks[0])[first - 1] == "fox</w>" and first < 77
    assert tokenizer.tokens(reading.chunks[1])[second - 77 - 1] == "fox</w>"


def test_chunks_are_encoded_by_themselves_and_shorter_prompts_are_filled_up(tiny):
    long = FOX.model_copy(update={"settings": ("in the snow", LONG)})
    told = encode(tiny, long, (64, 64), long_prompts="chunk")
    assert told.prompt_embeds.shape[1] == told.negative_prompt_embeds.shape[1] == 154
    chunks = read_prompt(long.prompts[1], tokenizer_of(None), chunked=True).chunks
    parts, _, pooled, _ = tiny.pipe.encode_prompt(list(chunks), device="cpu", do_classifier_free_guidance=False)
    assert torch.allclose(told.prompt_embeds[1], torch.cat(list(parts)), atol=1e-5)
    assert torch.allclose(told.pooled_prompt_embeds[1], pooled[0], atol=1e-5)
    short = encode(tiny, FOX, (64, 64)).prompt_embeds[0]
    assert torch.allclose(told.prompt_embeds[0, :77], short, atol=1e-5)
    assert len(generate(tiny, long, named("consistory"), long_prompts="chunk", **SETTINGS).images) == 2


def test_weights_are_letters_unless_asked_for(tiny, tmp_path):
    weighty = FOX.model_copy(update={"subject": "a (red:1.5) fox"})
    told, plain = encode(tiny, weighty, (64, 64), prompt_weights=True), encode(tiny, FOX, (64, 64))
    assert torch.equal(told.subject_tokens, plain.subject_tokens)
    [empty] = tiny.pipe.encode_prompt([""], device="cpu", do_classifier_free_guidance=False)[0]
    red = 5  # start, a, photo, of, a, red
    expected = empty[red] + 1.5 * (plain.prompt_embeds[0, red] - empty[red])
    assert torch.allclose(told.prompt_embeds[0, red], expected, atol=1e-5)
    rest = [i for i in range(77) if i != red]
    assert torch.equal(told.prompt_embeds[:, rest], plain.prompt_embeds[:, rest])
    text = YAML.replace("a red fox", "a (red:1.5) fox")
    assert any("looks like weights" in line for line in notes(plan_of(tmp_path, text)))
    assert notes(plan_of(tmp_path, text, prompt_weights=True)) == []
