"""What callers from Python hand in: numpy numbers, decomposed letters, other scripts, added tokens; files that are broken."""

import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import torch

from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.named_methods import named
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.encoding import encode
from svdstory.pipeline.generation import generate
from svdstory.pipeline.models.device import choose_device
from svdstory.pipeline.models.load import load_model
from svdstory.pipeline.models.tiny import build_tiny


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny", device="cpu")


def fox(**changes) -> PromptSet:
    given = dict(style="A photo of", subject="a red fox", concept=("fox",), settings=("in the snow", "at home"))
    return PromptSet(**{**given, **changes})


def draw(model, seed=0, **setting):
    return np.stack(
        [
            np.asarray(im)
            for im in generate(model, fox(), Method(), seed=seed, size=(64, 64), **{"steps": 1, **setting}).images
        ]
    )


@pytest.mark.parametrize(
    "zero", [np.int64(0), np.uint8(0), np.array(0), torch.tensor(0)], ids=lambda zero: type(zero).__name__
)
def test_a_seed_of_another_integer_type_gives_the_same_images(tiny, zero):
    assert np.array_equal(draw(tiny, zero, steps=np.int32(1)), draw(tiny))


@pytest.mark.parametrize("seed", [0.0, "0", None, True, np.bool_(False), np.float32(1), [0, 0.5]])
def test_a_seed_that_is_no_whole_number_is_refused(tiny, seed):
    with pytest.raises(InputError, match="seed: got .*, expected a whole number"):
        draw(tiny, seed)


@pytest.mark.parametrize("setting", [{"steps": 0}, {"steps": -1}, {"steps": 1.5}, {"micro_batch": 0}])
def test_no_steps_are_not_the_models_own(tiny, setting):
    with pytest.raises(InputError, match=f"{next(iter(setting))}: got .*, expected a whole number from 1"):
        draw(tiny, **setting)


def words(model, prompts: PromptSet) -> str:
    """The tokens at the subject's positions of the first prompt, as the pipeline's own tokenizer numbers them."""
    (positions, *_) = encode(model, prompts, (64, 64)).subject_tokens.tolist()
    text = model.pipe.maybe_convert_prompt(prompts.prompts[0], model.pipe.tokenizer)
    ids = model.pipe.tokenizer(text).input_ids
    return " ".join(model.pipe.tokenizer.convert_ids_to_tokens([ids[p] for p in positions])).replace("</w>", "")


def test_a_subject_of_decomposed_letters_and_a_concept_of_composed_ones_meet(tiny):
    decomposed = fox(subject=unicodedata.normalize("NFD", "une mésange bleue"), concept=("mésange",))
    composed = fox(subject="une mésange bleue", concept=(unicodedata.normalize("NFD", "mésange"),))
    assert words(tiny, decomposed) == words(tiny, composed) != ""


def test_a_chinese_subject_is_found_by_its_characters(tiny):
    whole = tiny.pipe.tokenizer.tokenize("一只红色的狐狸")
    assert 0 < len(words(tiny, fox(subject="一只红色的狐狸", concept=("狐狸",))).split()) < len(whole)


@pytest.fixture
def taught(tiny):
    """tiny with Textual Inversion's tokens: <x> of three vectors, <y> of one."""
    pipe = build_tiny()
    for tokenizer, encoder in ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2)):
        tokenizer.add_tokens(["<x>", "<x>_1", "<x>_2", "<y>"])
        encoder.resize_token_embeddings(len(tokenizer))
    return replace(tiny, pipe=pipe, encoded={})


def test_words_beside_an_added_token_and_all_its_vectors_are_found_where_the_encoder_has_them(taught):
    assert words(taught, fox(subject="a <x> cat", concept=("cat",))) == "cat"
    assert words(taught, fox(subject="a <x> cat", concept=("<x>",))) == "<x> <x>_1 <x>_2"
    assert words(taught, fox(subject="a <y> cat", concept=("<y>", "cat"))) == "<y> cat"


def test_a_prompt_that_its_added_vectors_make_too_long_is_refused(taught):
    with pytest.raises(InputError, match="the model reads 77"):
        encode(taught, fox(subject="a <x> fox" + " <x>" * 24, settings=("at home",)), (64, 64))


def test_a_benchmark_phrase_is_drawn(tiny):
    loaf = PromptSet(
        style="",
        subject="A crusty loaf of freshly baked bread",
        concept=("loaf of bread",),
        settings=("on a board", "at a market"),
    )
    made = generate(tiny, loaf, named("consistory"), steps=2, size=(64, 64))
    assert len(made.images) == 2 and words(tiny, loaf) == "loaf bread"


@pytest.mark.parametrize("device", ["gpu", "cuda:", "mps"])
def test_an_odd_device_is_an_input_error(device):
    with pytest.raises(InputError, match="expected cpu, cuda"):
        choose_device(device)
