"""What the README says is run as it stands there."""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_five_lines_of_python_do_what_they_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", README, re.S)[1]
    assert len(code.strip().splitlines()) == 5
    exec(code, {})
    from PIL import Image

    assert Image.open(tmp_path / "cat-in-a-meadow.png").size == (64, 64)


def test_experiment_in_the_readme_is_a_valid_one(tmp_path):
    import yaml

    from svdstory.jobs.study.experiment import Experiment, read_methods
    from svdstory.pipeline.config.strict import parse

    experiment = parse(Experiment, yaml.safe_load(re.search(r"```yaml\n(.*?)```", README, re.S)[1]), "README.md")
    assert len(read_methods(experiment)) == 7


def test_files_that_the_readme_names_exist():
    root = Path(__file__).parents[1]
    table = README.split("## To change X, open Y")[1].split("An experiment file")[0]
    named = re.findall(r"`((?:pipeline|jobs|prompts|slurm)/[\w./]*)`", table)
    assert len(named) > 15 and [n for n in named if not (root / n).exists()] == []


@pytest.mark.parametrize(
    "page",
    sorted(
        p
        for top in ("jobs", "pipeline", "prompts", "results", "slurm", "tests")
        for p in (ROOT / top).rglob("README.md")
        if "runs" not in p.parts
    ),
    ids=str,
)
def test_pages_name_files_that_are_there(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_python_examples_of_pipelines_page_give_what_they_say():
    failures, tried = doctest.testfile(str(ROOT / "pipeline" / "README.md"), module_relative=False)
    assert tried >= 6 and failures == 0


def test_every_room_has_a_page():
    rooms = [
        folder for top in ("jobs", "pipeline") for folder in (ROOT / top).iterdir() if (folder / "__init__.py").exists()
    ]
    assert len(rooms) > 10 and [room.name for room in rooms if not (room / "README.md").exists()] == []


def test_no_two_modules_have_one_name():
    names = [
        path.name for top in ("jobs", "pipeline") for path in (ROOT / top).rglob("*.py") if path.stem != "__init__"
    ]
    assert sorted(name for name in names if names.count(name) > 1) == []
