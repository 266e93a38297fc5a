"""The command as its users see it: help, versions, errors that name the option, defaults of their own."""

import subprocess
import sys
from dataclasses import fields
from importlib.metadata import version

import pytest
import typer

from svdstory.jobs.cli.app import app
from svdstory.jobs.cli.options import Asked
from tests.jobs.test_status import planned

PLAN = ("plan", "smoke", "--sets", "blue-bus", "--methods", "sdxl")


def commands(group=None, words=()):
    """Every command that there is: its words and itself."""
    for name, command in (group or typer.main.get_command(app)).commands.items():
        yield from commands(command, (*words, name)) if hasattr(command, "commands") else [((*words, name), command)]


def test_help_groups_the_commands_and_hides_work(svdstory):
    _, told, _ = svdstory("--help")
    panels = ["Study", "Cluster", "Report", "Measure", "Train"]
    places = [told.index(f"─ {panel} ─") for panel in panels]
    assert places == sorted(places) and "--version" in told and "--install-completion" in told
    assert "│ work" not in told and "│ submit" in told


def test_every_commands_help_has_an_example():
    without = [words for words, command in commands() if "Example: " not in command.help]
    assert len(list(commands())) > 20 and not without


def test_version_is_the_installed_one(svdstory):
    assert svdstory("--version") == (0, f"svdstory {version('svdstory')}\n", "")


@pytest.mark.parametrize(
    "words, offered",
    [("svdstory pl", "plan"), ("svdstory plan de", "demo"), ("svdstory submit smoke --site cha", "charisma")],
)
def test_a_shell_completes_commands_experiments_and_sites(svdstory, monkeypatch, words, offered):
    monkeypatch.setenv("_SVDSTORY_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    assert svdstory()[1].split() == [offered]


WRONG = {
    "model": ("tinny", "did you mean 'tiny'?"),
    "sets": ("blue-buss", "did you mean 'blue-bus'?"),
    "methods": ("consistori", "did you mean 'consistory'?"),
    "seeds": ("one", "expected whole numbers, separated by commas, for example 0,1,2"),
    "steps": ("0", "expected 1 or more"),
    "size": ("1024", "expected WIDTHxHEIGHT in pixels, for example 1024x768"),
    "vae": ("no-such-folder", "no-such-folder"),
    "dtype": ("float12", "'float32', 'float16' or 'bfloat16'"),
    "offload": ("half", "'model', 'sequential' or 'group'"),
}


@pytest.mark.parametrize("option", WRONG)
def test_an_error_names_the_option_what_was_got_and_what_is_expected(svdstory, option):
    value, expected = WRONG[option]
    status, _, told = svdstory("plan", "smoke", f"--{option}", value)
    assert status == 2 and told.startswith(f"svdstory: --{option} {value}: ") and expected in told


def test_every_option_that_changes_an_experiment_is_tried_wrong():
    assert {field.name for field in fields(Asked)} - {"experiment", "out", "settings"} == set(WRONG)


@pytest.mark.parametrize(
    "setting, expected",
    [
        ("guidnce=4", "unknown key 'guidnce' (did you mean 'guidance'?). Nearest of "),
        ("guidance=high", "guidance: got 'high'"),
        ("guidance", "expected KEY=VALUE, for example guidance=4"),
        ("scorers=[clip", "the value: not valid YAML"),
        ("scorers=[clipscor]", "did you mean 'clipscore'?"),
        ("scheduler=eulr", "unknown scheduler 'eulr' (did you mean 'euler'?)"),
        ("size=[100, 128]", "needs multiples of 64 pixels. Nearest: 128x128"),
        ("sets=[blue-buss]", "did you mean 'blue-bus'?"),
        ("methods=[consistori]", "did you mean 'consistory'?"),
        ("seeds=[1, 1]", "a seed stands twice"),
        ("model=tinny", "did you mean 'tiny'?"),
    ],
)
def test_a_wrong_setting_is_named_as_it_was_given(svdstory, setting, expected):
    status, _, told = svdstory("plan", "smoke", "--set", setting)
    assert status == 2 and told.startswith(f"svdstory: --set {setting}: ") and expected in told


def test_any_key_of_an_experiment_can_be_set(svdstory):
    words = ("guidance=4.5", "scheduler=euler", "exact_filter=true", "steps=7", "size=[128, 64]", "seeds=[3]")
    _, told, _ = svdstory(*PLAN, *(word for setting in words for word in ("--set", setting)))
    assert "7 steps of euler, 128x64, guidance 4.5, exact filters" in told and "cells       1," in told


def test_what_is_given_twice_is_refused_with_both_words(svdstory):
    refused = "--steps 3 and --set steps=4: both give steps. Give it once."
    assert refused in svdstory(*PLAN, "--steps", "3", "--set", "steps=4")[2]
    assert "--set steps=3 and --set steps=4: both" in svdstory(*PLAN, "--set", "steps=3", "--set", "steps=4")[2]


def test_of_many_names_an_error_lists_the_nearest_five(svdstory):
    _, _, told = svdstory("plan", "smoke", "--methods", "svd-logs")
    assert "(did you mean 'svd-log'?). Nearest of " in told and told.count(", ") == 4


def test_plan_shows_long_lists_as_a_table(svdstory, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, told, _ = svdstory("plan", "report", "--model", "tiny")
    assert max(map(len, told.partition("sets  ")[2].splitlines())) <= 80
    assert "\n  sdxl " in told and "svd-log2-energy" in told


def test_a_probe_without_a_site_says_so(svdstory):
    status, _, told = svdstory("doctor", "--probe")
    assert status == 2 and "--probe" in told and "Give --site NAME" in told


# ---------------------------------------------------------------- defaults of a user's own


@pytest.fixture
def defaults(monkeypatch, tmp_path):
    """Writes the user's file of defaults, and gives its path."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config").mkdir()

    def write(text: str):
        (tmp_path / "config" / "svdstory.yaml").write_text(text)
        return tmp_path / "config" / "svdstory.yaml"

    return write


def test_an_option_wins_over_a_variable_and_that_over_the_file(svdstory, defaults, monkeypatch):
    assert "run folder  results/smoke-tiny" in svdstory(*PLAN)[1]
    defaults("{model: miniature, results: /of/file}")
    assert "run folder  /of/file/smoke-miniature\nmodel       miniature" in svdstory(*PLAN)[1]
    monkeypatch.setenv("SVDSTORY_MODEL", "tiny")
    monkeypatch.setenv("SVDSTORY_RESULTS", "/of/variable")
    assert "run folder  /of/variable/smoke-tiny\nmodel       tiny" in svdstory(*PLAN)[1]
    assert "run folder  /of/variable/smoke-miniature" in svdstory(*PLAN, "--model", "miniature")[1]
    assert "run folder  /of/variable/smoke-miniature" in svdstory(*PLAN, "--set", "model=miniature")[1]
    assert "run folder  mine\n" in svdstory(*PLAN, "--out", "mine")[1]


def test_the_site_may_be_said_once(svdstory, defaults, monkeypatch):
    words = ("submit", *PLAN[1:], "--dry-run")
    status, _, told = svdstory(*words)
    assert status == 2 and "which cluster? Give --site NAME" in told
    file = defaults("site: lab\n")
    assert "partition gpu" in svdstory(*words)[1]
    monkeypatch.setenv("SVDSTORY_SITE", "charisma")
    assert "partition rocky" in svdstory(*words)[1]
    assert "partition gpu" in svdstory(*words, "--site", "lab")[1]
    monkeypatch.setenv("SVDSTORY_SITE", "labb")
    assert svdstory(*words)[2].startswith("svdstory: SVDSTORY_SITE=labb: unknown site 'labb' (did you mean 'lab'?)")
    monkeypatch.delenv("SVDSTORY_SITE")
    defaults("site: labb\n")
    assert svdstory(*words)[2].startswith(f"svdstory: {file}: site: labb: unknown site 'labb'")


def test_a_run_may_be_named_by_its_folder_in_the_results_folder(svdstory, defaults, tmp_path):
    planned(tmp_path / "elsewhere" / "small")
    defaults(f"results: {tmp_path}/elsewhere\n")
    assert "units   0 of 2 done" in svdstory("status", "small")[1]
    assert "0 of 2 units are sound" in svdstory("verify", "elsewhere/small")[1]
    assert svdstory("status", "smal")[0] == 2


def test_a_models_name_may_stand_for_a_folder(svdstory, defaults):
    defaults("models: {tiny: /nowhere/sdxl}\n")
    assert "'/nowhere/sdxl'" in svdstory(*PLAN)[2]
    defaults("models: {mine: tiny}\n")
    assert "model       tiny" in svdstory(*PLAN, "--model", "mine")[1]


@pytest.mark.parametrize("text, expected", [("sit: lab", "unknown key 'sit' (did you mean 'site'?)"), ("[lab]", "")])
def test_a_wrong_file_of_defaults_is_an_error_that_names_it(svdstory, defaults, text, expected):
    file = defaults(text)
    status, _, told = svdstory(*PLAN)
    assert status == 2 and told.startswith(f"svdstory: {file}: {expected}")


def test_what_a_login_node_runs_never_imports_torch(tmp_path):
    code = """
import sys
from svdstory.jobs.cli.app import main
for words in (["plan", "report", "--model", "tiny", "--site", "charisma"], ["submit", "smoke", "--site", "lab", "--dry-run"],
              ["status", "."], ["logs", "."], ["verify", "."], ["--help"]):
    try:
        main(words)
    except SystemExit:
        pass
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True).returncode == 0
