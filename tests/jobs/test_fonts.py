"""The report's letters: characters that the font lacks are said, and another font can be named."""

import json
from pathlib import Path

import pytest

from svdstory.jobs.report import fonts
from svdstory.jobs.report.reduce import reduce
from svdstory.pipeline.config.strict import InputError
from tests.jobs.synthetic import synthetic_run

STIX = Path(fonts.shipped()).with_name("STIXGeneral.ttf")  # matplotlib's own, for a script that DejaVu lacks


def named_in(tmp_path, subject: str, **experiment):
    prompts = {"style": "A photo of", "subject": subject, "concept": subject, "settings": ["x", "y"]}
    (tmp_path / "set.json").write_text(json.dumps(prompts), encoding="utf-8")
    return synthetic_run(tmp_path, sets=("set.json",), methods=("sdxl",), seeds=(0,), **experiment)


def test_characters_that_the_font_lacks_are_noted_and_a_font_that_has_them_is_used(tmp_path):
    letter = next(chr(c) for c in sorted(fonts._glyphs(str(STIX)) - fonts._glyphs(fonts.shipped())) if chr(c).isalpha())
    assert fonts.lacking(named_in(tmp_path, "狐狸")).startswith("DejaVuSans.ttf has no glyphs for 2 characters (狐狸)")
    assert fonts.lacking(named_in(tmp_path, letter)) and not fonts.lacking(named_in(tmp_path, "лиса"))
    assert not fonts.lacking(named_in(tmp_path, letter, font=str(STIX)))


def test_the_report_is_drawn_in_the_experiments_font_and_says_what_is_lacking(tmp_path):
    first = named_in(tmp_path, "狐狸")
    assert any("no glyphs for 2 characters" in note for note in reduce(tmp_path, figures=["sets"]).notes)
    plain = (tmp_path / "report" / "grids" / "set.png").read_bytes()
    second = named_in(tmp_path, "狐狸", font=str(STIX))
    assert [c.key for c in second.cells] == [c.key for c in first.cells]
    assert any("STIXGeneral.ttf has no glyphs" in note for note in reduce(tmp_path, figures=["sets"]).notes)
    assert (tmp_path / "report" / "grids" / "set.png").read_bytes() != plain
    assert fonts.face() == fonts.shipped()


@pytest.mark.parametrize("name, message", [("gone.ttf", "no such file"), ("set.json", "no TrueType or OpenType font")])
def test_a_font_that_is_none_is_refused(tmp_path, name, message):
    named_in(tmp_path, "a fox")
    with pytest.raises(InputError, match=message):
        named_in(tmp_path, "a fox", font=name)
