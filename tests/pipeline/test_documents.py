"""Reading YAML and JSON: what YAML would misread in silence is an error that quotes what was written."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from svdstory.pipeline.config.documents import read_document, read_text, read_yaml
from svdstory.pipeline.config.methods import Method
from svdstory.pipeline.config.prompt_files import read_sets
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError, parse


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' stands twice .before in line 1"),
        ("x: {a: 1, a: 2}", "the key 'a' stands twice"),
        ("- [{b: 1,\n   b: 2}]", "line 2: the key 'b' stands twice"),
        ('a: 1\n"a": 2\n', "the key 'a' stands twice"),
        ("a: &x [1, *x]", "an alias holds itself"),
        ("&m {a: *m}", "an alias holds itself"),
        ("a: 12:30", 'line 1: YAML reads 12:30 as a number to base 60. If text is meant, put it in quotes: "12:30"'),
        ("a: [2024-01-02]", "reads 2024-01-02 as a date"),
        ("a: 2024-13-45", "reads 2024-13-45 as a date"),
        ("a: 010", "reads 010 as a number to base 8"),
        ("on: 1", "got the key on, expected text. If it is meant, put it in quotes"),
        ("12: 1", "got the key 12"),
        ("? [1, 2]\n: 3", "got the key a list or mapping"),
        ("a: !!python/name:os.system x", "the tag .* is not read here"),
        ("a: !!binary aGk=", "the tag !!binary is not read here"),
        ("a: [1", "not valid YAML"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("[" * 2000, "not valid YAML|nested too deeply"),
        (
            "a: &a [1,1,1,1,1,1,1,1,1]\n"
            + "".join(f"{c}: &{c} [{', '.join(['*' + p] * 9)}]\n" for p, c in zip("abcdef", "bcdefg")),
            "unfolds",
        ),
        ("a: " + "9" * 5000, "cannot be read"),
    ],
)
def test_what_yaml_would_misread_is_refused_with_its_line(text, message):
    with pytest.raises(InputError, match=message):
        read_text(text, "x.yaml")


def test_merged_keys_may_be_given_again():
    assert read_text("base: &b {a: 1, c: 2}\nx: {<<: *b, a: 3}", "x").content["x"] == {"a": 3, "c": 2}


@pytest.mark.parametrize("text, message", [('{"a": 1, "a": 2}', "'a' stands twice"), ("{'a': 1}", "cannot be read")])
def test_json_is_as_strict(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_yaml(tmp_path / "x.json")


def test_json_with_tabs_escapes_and_exponents_is_read(tmp_path):
    (tmp_path / "x.JSON").write_text('{\n\t"a": 1e-3, "b": "\\ud83e\\udd8a \\/"\n}')
    assert read_yaml(tmp_path / "x.JSON") == {"a": 1e-3, "b": "🦊 /"}


def test_a_byte_order_mark_is_passed_over(tmp_path):
    (tmp_path / "x.yaml").write_text("\ufeffa: 1", encoding="utf-8")
    assert read_yaml(tmp_path / "x.yaml") == {"a": 1}


def error_of(text: str, record=PromptSet) -> str:
    document = read_text(text, "fox.yaml")
    with pytest.raises(InputError) as error:
        parse(record, document.content, "fox.yaml", document.written)
    return str(error.value)


FOX = "style: A photo of\nsubject: a red fox\nconcept: fox\nsettings: [in the snow, {}]\n"


@pytest.mark.parametrize(
    "word, value", [("on", "True"), ("No", "False"), ("~", "None"), ("1_000", "1000"), (".5", "0.5")]
)
def test_a_word_that_yaml_changes_is_told_as_it_was_written(word, value):
    error = error_of(FOX.format(word))
    assert f"settings.1: got {word}, which YAML reads as {value}" in error and "put it in quotes" in error


def test_a_number_that_yaml_takes_for_text_says_how_numbers_are_written():
    error = error_of("freeu: {s1: 1e-3, s2: 1, b1: 1, b2: 1}", Method)
    assert "freeu.s1: got '1e-3'" in error and "1.0e-3" in error and "quotes" in error


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf"])
def test_a_number_that_is_none_is_refused(number):
    assert "finite" in error_of(f"freeu: {{s1: {number}, s2: 1, b1: 1, b2: 1}}", Method)


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(InputError, match="surrogate"):
        parse(PromptSet, {"style": "\ud83e"}, "x")


def test_a_comment_behind_a_plain_word_is_known():
    document = read_text("a: red fox #1 best\nb: 'red fox' # three\nc: [x, y] # two\n", "x")
    assert [document.comment((key,)) for key in "abc"] == ["#1 best", "", ""]
    assert document.comment(("c", 1)) == ""


YAMLISH = st.text(st.sampled_from("abz01.:-#[]{}&*!|>'\"%@`?,~<=\n\t \u2028é狐🦊\x00\x85\ufeff"), max_size=60)
KEYS = st.sampled_from(
    ["style", "subject", "concept", "concept_token", "settings", "seeds", "name", "group", "animals"]
)
LINES = st.lists(st.builds("{}{}: {}".format, st.sampled_from(["", "  ", "- "]), KEYS, YAMLISH), max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(text=YAMLISH | LINES.map("\n".join))
def test_no_text_makes_the_yaml_reader_anything_but_a_document_or_an_input_error(tmp_path_factory, text):
    path = Path(tmp_path_factory.getbasetemp()) / "fuzz.yaml"
    path.write_text(text, encoding="utf-8", newline="")
    try:
        document = read_document(path)
        parse(PromptSet, document.content, "x", document.written)
    except InputError as error:
        assert str(error).strip()


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(content=VALUES)
def test_no_content_makes_the_set_reader_anything_but_sets_or_an_input_error(tmp_path_factory, content):
    import yaml

    path = Path(tmp_path_factory.getbasetemp()) / "fuzz-content.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    try:
        assert all(isinstance(one, PromptSet) for one in read_sets(path))
    except InputError as error:
        assert str(error).strip()
