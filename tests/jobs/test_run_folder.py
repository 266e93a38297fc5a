"""A run folder is proven before a command touches it, and its plan is never lost to a command that asks for less."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from svdstory.jobs.cli import app
from svdstory.jobs.report.draft import Draft
from svdstory.jobs.study.experiment import Experiment
from svdstory.jobs.study.plan import make_plan, plan_path, plans_of, read_plan
from svdstory.jobs.study.process import Process
from svdstory.jobs.study.run_folder import check_output, prepare
from svdstory.pipeline.config.strict import InputError

MORE = {"logs": ["abc"], "clean": ["--yes"], "export": ["--zip", "x.zip"], "merge": ["--out", "merged"]}


def commands_on_a_run() -> list[str]:
    """Every command that takes RUN."""
    commands = typer.main.get_command(app.app).commands
    return [n for n, c in commands.items() if any((p.metavar or "").startswith("RUN") for p in c.params)]


def svdstory(monkeypatch, *words) -> int:
    """The exit status of the command."""
    monkeypatch.setattr(sys, "argv", ["svdstory", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        app.main()
    return end.value.code


def plan_of(run, sets=("red-fox", "blue-bus"), methods=("sdxl",), **settings):
    return make_plan("small", Experiment(model="tiny", sets=sets, methods=methods, **settings), run)


def test_all_commands_that_look_at_a_run_are_known_here():
    assert {
        "status",
        "logs",
        "retry",
        "cancel",
        "clean",
        "verify",
        "reduce",
        "curate",
        "spectra",
        "score",
        "merge",
        "compare",
        "export",
    } <= set(commands_on_a_run())


@pytest.mark.parametrize("command", commands_on_a_run())
@pytest.mark.parametrize("plan", [None, "{half a pl", '{"name": "package"}'], ids=["no plan", "cut off", "not a plan"])
def test_a_folder_that_is_no_run_is_refused_and_stays_as_it_is(tmp_path, monkeypatch, capsys, command, plan):
    files = [tmp_path / "code" / "thesis.tex", tmp_path / "corrupt" / "disk.img", tmp_path / "report" / "mine.html"]
    if plan is not None:
        files.append(tmp_path / "plans" / "0001-0123456789ab.json")
    for path in files:
        path.parent.mkdir(exist_ok=True)
        path.write_text(plan or "mine")
    words = [tmp_path, *([tmp_path] if command == "compare" else []), *MORE.get(command, [])]
    assert svdstory(monkeypatch, command, *words) == 2
    told = capsys.readouterr().err
    assert "no plan here" in told if plan is None else "cannot be read as a plan" in told
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(files)


def test_a_report_folder_that_is_somebody_elses_is_not_replaced(tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="files that svdstory did not make"):
        Draft(tmp_path)


@pytest.mark.parametrize("fewer", [{"sets": ("blue-bus",)}, {"steps": 2}], ids=["dropped", "changed"])
def test_a_plan_that_drops_or_changes_cells_is_refused_with_the_ways_on(tmp_path, fewer):
    prepare(plan_of(tmp_path), tmp_path)
    before = plan_path(tmp_path)
    with pytest.raises(InputError, match=r"--out.*--replace"):
        prepare(plan_of(tmp_path, **fewer), tmp_path)
    assert plan_path(tmp_path) == before
    prepare(plan_of(tmp_path, **fewer), tmp_path, replace=True)
    assert plan_path(tmp_path) != before and before.exists()


def test_a_plan_with_more_cells_becomes_the_runs_plan(tmp_path):
    prepare(plan_of(tmp_path), tmp_path)
    prepare(plan_of(tmp_path, methods=("sdxl", "consistory")), tmp_path)
    assert len(plans_of(tmp_path)) == 2 and len(read_plan(plan_path(tmp_path)).methods) == 2


@pytest.mark.parametrize(
    "words", [["run"], ["submit", "--site", "generic", "--dry-run"], ["work"]], ids=["run", "dry run", "plain sbatch"]
)
def test_a_filtered_command_says_which_cells_it_would_drop_and_makes_nothing(tmp_path, monkeypatch, capsys, words):
    prepare(plan_of(tmp_path), tmp_path)
    experiment = tmp_path / "small.yaml"
    experiment.write_text("sets: [red-fox, blue-bus]\nmethods: [sdxl]\nmodel: tiny\n")
    command, *more = words
    assert svdstory(monkeypatch, command, experiment, "--sets", "blue-bus", "--out", tmp_path, *more) == 2
    assert "first: red-fox, sdxl, seed 0" in capsys.readouterr().err and not (tmp_path / "units").exists()


def test_two_processes_with_one_pid_do_not_take_each_others_probe_for_their_own(tmp_path, monkeypatch):
    """Two containers: the other one removes its probe between our writing and removing ours."""
    plan, probes, write = plan_of(tmp_path), [], Path.write_bytes

    def written(path, content):
        probes.append(path.name)
        other = path.with_name(f".writable-{replace(Process.here(), place='0' * 8)}")
        write(path, content)
        write(other, content)
        other.unlink()

    monkeypatch.setattr(Path, "write_bytes", written)
    check_output(plan, tmp_path)
    assert str(Process.here()) in probes[0] and not list(tmp_path.glob(".writable*"))
