"""Where the subject stands in a prompt: as CLIP reads it, in any script, in the forms that people write."""

import unicodedata
from dataclasses import replace

import pytest

from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.config.subject_words import occurs, words_meant
from svdstory.pipeline.config.tokens import Tokenizer, subject_positions, tokenizer_of

CLIP = tokenizer_of(None)


def found(prompt: str, *concept: str, tokenizer: Tokenizer = CLIP) -> str:
    """The tokens at the concept's positions, end to end."""
    tokens = ["", *tokenizer.tokens(prompt)]
    return "".join(tokens[i] for i in subject_positions(prompt, concept, tokenizer)).replace("</w>", " ").strip()


@pytest.mark.parametrize(
    "concept, subject, meant",
    [
        ("loaf of bread", "A crusty loaf of freshly baked bread", ("loaf", "bread")),
        ("waterfall mist", "Mist from a waterfall", ("Mist", "waterfall")),
        ("macaron", "A colorful array of delicate macarons", ("macarons",)),
        ("wolves", "a grey wolf", ("wolf",)),
        ("knife", "two old knives", ("knives",)),
        ("children", "a happy child", ("child",)),
        ("bus", "three red buses", ("buses",)),
        ("teddy_bear", "a worn teddy bear", ("teddy bear",)),
        ("hot air balloon", "a hot-air balloon", ("hot-air balloon",)),
        ("teddybear", "a teddy bear", ("teddy bear",)),
        ("teddy bear", "a brown teddybear", ("teddybear",)),
        ("balloon, air", "an air balloon", ("air balloon",)),
        ("лиса", "рыжую лису", ("лису",)),
        ("cafe", "an old Café", ("Café",)),
        ("Fuchs", "zwei rote Füchse", ("Füchse",)),
        ("wolf", "a red fox", ()),
        ("man", "many cats", ()),
        ("cat", "a herd of cattle", ()),
        ("ox", "a red fox", ()),
    ],
)
def test_a_concept_is_found_in_the_forms_that_people_write(concept, subject, meant):
    assert words_meant(concept, subject) == meant


@pytest.mark.parametrize(
    "concept, text",
    [("狐狸", "一只红色的狐狸在雪中"), ("여우", "붉은 여우가 있다"), ("Fox", "a red fox."), ("がく", "がくせい")],
)
def test_words_are_found_by_character_where_no_blanks_part_them(concept, text):
    assert occurs(concept, text) and occurs(unicodedata.normalize("NFD", concept), text)


def test_part_of_a_word_is_no_word_where_blanks_part_them():
    assert not occurs("ox", "a red fox") and not occurs("우가", "여우가")


def test_positions_are_those_of_clips_own_normal_form():
    decomposed = unicodedata.normalize("NFD", "une mésange bleue")
    assert found(decomposed, "mésange") == found("une mésange bleue", unicodedata.normalize("NFD", "mésange"))
    assert len(subject_positions(decomposed, ("mésange",), CLIP)) == len(CLIP.tokens("mésange"))


def test_chinese_subject_words_are_found_inside_the_sentence():
    prompt = "一只红色的狐狸"
    covered, inside = subject_positions(prompt, ("狐狸",), CLIP), CLIP.tokens(prompt)
    assert 0 < len(covered) < len(inside) and covered[-1] == len(inside)
    with pytest.raises(InputError, match="does not contain the subject word '猫'"):
        subject_positions(prompt, ("猫",), CLIP)


def test_a_prompt_that_is_too_long_quotes_its_own_characters():
    long = "Фотография рыжей лисы " + "в очень красивом зимнем лесу " * 6 + "и Красный шарф"
    with pytest.raises(InputError, match=r'"[^"]*и Красный шарф" would be cut') as error:
        subject_positions(long, ("лисы",), CLIP)
    assert "Ð" not in str(error.value)
    chinese = "狐狸" + "在雪地里的红色" * 20
    with pytest.raises(InputError, match='"[在雪地里的红色]+" would be cut'):
        subject_positions(chinese, ("狐狸",), CLIP)


def test_a_long_word_without_blanks_is_not_told_to_be_cut_whole():
    with pytest.raises(InputError, match='"fox.*" would be cut') as error:
        subject_positions("a fox " + "foxes" * 100, ("fox",), CLIP)
    assert "a fox foxes" not in str(error.value).split('"')[1]


def test_an_added_token_stands_between_words_and_counts_all_its_vectors():
    def split(text: str) -> list[str]:  # as a tokenizer with these tokens added does it
        return [part for word in text.split() for part in ([word] if word.startswith("<") else CLIP.split(word))]

    tokenizer = replace(CLIP, split=split, added=frozenset({"<x>", "<x>_1", "<x>_2", "<y>"}))
    assert tokenizer.tokens("a <x> cat") == ["a</w>", "<x>", "<x>_1", "<x>_2", "cat</w>"]
    assert subject_positions("a <x> cat", ("cat",), tokenizer) == [5]
    assert subject_positions("a <x> cat", ("<x>",), tokenizer) == [2, 3, 4]
    assert subject_positions("a <y> cat", ("<y>", "cat"), tokenizer) == [2, 3]


@pytest.mark.parametrize(
    "text",
    [
        "a red fox\n",
        "  a\tred \u2028fox",
        "a red\u00a0fox",
        "a\x00red\x1b fox",
        "\ufeffa red\u3000\u200bfox",
        "a\r\nred\x85fox",
    ],
)
def test_white_space_line_separators_and_controls_are_one_blank_each(text):
    prompts = PromptSet(style="A photo of", subject=text, concept=("red\nfox",), settings=("in\u2029the snow",))
    assert (prompts.subject, prompts.concept, prompts.settings) == ("a red fox", ("red fox",), ("in the snow",))


def test_two_subjects_are_two_concepts_of_one_phrase():
    prompts = PromptSet(style="", subject=["a cat", "a dog"], concept=["cat", "dog"], settings=["at home"])
    assert prompts.prompts == ["a cat and a dog at home"] and found(prompts.prompts[0], *prompts.concept) == "cat dog"


def test_a_concept_of_the_style_or_of_every_setting_counts():
    assert PromptSet(style="A fox", subject="in red", concept=("fox",), settings=("x",)).note == ""


def test_a_concept_that_was_found_in_another_form_says_so():
    prompts = PromptSet(style="", subject="many macarons", concept=("macaron",), settings=("on a plate",))
    assert prompts.concept == ("macarons",) and "macaron was found in the subject as macarons" in prompts.note
