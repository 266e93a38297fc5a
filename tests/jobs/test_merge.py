"""Runs that meet: merged without a second copy, reduced together, set side by side, packed for others."""

import json
import zipfile

import pytest
from typer.testing import CliRunner

from svdstory.jobs.cli.app import app
from svdstory.jobs.report.cells import read_study
from svdstory.jobs.report.compare_runs import compare_runs
from svdstory.jobs.report.supplement import export
from svdstory.jobs.study import merge as merging
from svdstory.jobs.study.merge import merge
from svdstory.jobs.study.plan import plan_path, read_plan
from svdstory.jobs.study.store import Attempt, Store
from svdstory.pipeline.config.strict import InputError
from tests.jobs.synthetic import score, synthetic_run

METRICS = {"clipscore": 0.3}


def files_of(folder) -> dict:
    return {p.relative_to(folder): p.stat().st_ino for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def two(tmp_path):
    """The same study in two places: one has seed 0, the other seeds 0 and 1 and a method more."""
    mine, hers = tmp_path / "mine", tmp_path / "hers"
    score(mine, synthetic_run(mine, seeds=(0,), methods=("sdxl", "consistory")), "clipscore:tiny", METRICS)
    score(hers, synthetic_run(hers), "clipscore:tiny", METRICS)
    return mine, hers


def test_merged_runs_share_their_files_and_have_every_cell_once(two, tmp_path):
    mine, hers = two
    before = files_of(mine), files_of(hers)
    done = merge([mine, hers], tmp_path / "ours")
    assert (len(done.plan.cells), len(done.plan.units), done.came, done.missing) == (12, 12, 12, 0)
    assert (files_of(mine), files_of(hers)) == before
    inodes = set(before[0].values()) | set(before[1].values())
    assert {inode for path, inode in files_of(tmp_path / "ours" / "units").items()} <= inodes
    store = Store(tmp_path / "ours")
    assert all(store.problem(key, deep=True) is None for key in done.plan.units)
    study = read_study(tmp_path / "ours")
    assert sum(cell.value is not None for cell in study.measured.cells) == len(study.measured.cells) > 0


def test_merging_again_brings_only_what_is_new(two, tmp_path):
    mine, hers = two
    merge([mine, hers], tmp_path / "ours")
    again = merge([mine, hers], tmp_path / "ours")
    assert (again.came, again.there) == (0, 12) and len(list((tmp_path / "ours" / "plans").iterdir())) == 1


def test_a_unit_that_only_one_run_has_sound_is_taken_from_there(two, tmp_path):
    mine, hers = two
    key = next(iter(read_plan(plan_path(mine)).units))
    (Store(mine).folder(key) / "0.png").write_bytes(b"")
    assert merge([mine, hers], tmp_path / "ours").missing == 0
    (Store(hers).folder(key) / "0.png").write_bytes(b"")
    assert merge([mine, hers], tmp_path / "theirs").missing == 1


def test_without_hard_links_files_are_copied(two, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(merging.os, "link", refuse)
    done = merge(list(two), tmp_path / "ours")
    assert all(Store(tmp_path / "ours").problem(key, deep=True) is None for key in done.plan.units)
    assert not set(files_of(tmp_path / "ours").values()) & set(files_of(two[0]).values())


def test_sets_and_methods_of_one_name_and_other_content_are_kept_apart(tmp_path):
    runs = []
    for name, setting in (("mine", "in the snow"), ("hers", "in the rain")):
        runs.append(tmp_path / name)
        runs[-1].mkdir()
        fox = f"style: A photo of\nsubject: a fox\nconcept: fox\ngroup: pets\nsettings: [{setting}]\n"
        (runs[-1] / "fox.yaml").write_text(fox)
        synthetic_run(runs[-1], sets=("fox.yaml", "blue-bus"), methods=("sdxl",), seeds=(0,))
    plan = merge(runs, tmp_path / "ours").plan
    assert list(plan.sets) == ["fox", "blue-bus", "hers-fox"] and len(plan.cells) == len(plan.units) == 3


@pytest.mark.parametrize("change", [{"steps": 3}, {"guidance": 4.0}, {"size": (64, 64)}])
def test_runs_of_two_settings_are_not_merged(two, tmp_path, change):
    synthetic_run(tmp_path / "other", **change)
    with pytest.raises(InputError, match=f"{next(iter(change))} .* and .* Only runs of one model and one setting"):
        merge([two[0], tmp_path / "other"], tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_run_is_not_merged_into_itself_or_alone(two):
    with pytest.raises(InputError, match="is one of the runs"):
        merge(list(two), two[0])
    with pytest.raises(InputError, match="got 1 run, expected two or more"):
        merge([two[0]], two[1])


def test_failures_and_their_causes_come_along(two, tmp_path):
    mine, hers = two
    missing = [key for key in read_plan(plan_path(hers)).units if key not in read_plan(plan_path(mine)).units]
    Store(hers).set_aside(missing[0])
    Store(hers).record_failure(missing[0], "out of memory", "CUDA", Attempt.here())
    merge([mine, hers], tmp_path / "ours")
    assert read_study(tmp_path / "ours").counts()["failed"] == {"out of memory": 1}


def test_reduce_of_several_runs_makes_one_report_beside_the_first(two, tmp_path):
    done = CliRunner().invoke(app, ["reduce", *map(str, two), "--figures", "sets"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "mine+hers" / "report" / "index.html").is_file() and not (two[0] / "report").exists()
    assert "12 cells: 12 done" in done.output


# ------------------------------------------------------------ side by side


def pair(tmp_path, levels=(0.3, 0.5), **change):
    """Two runs of five sets, the second's numbers higher by a fifth."""
    for name, level in zip(("one", "other"), levels):
        run = tmp_path / name
        content = dict(sets=("good",), methods=("sdxl", "consistory"), seeds=(0,)) | (change if name == "other" else {})
        score(run, synthetic_run(run, **content), "clipscore:tiny", {"clipscore": level})
    return tmp_path / "one", tmp_path / "other"


def test_a_metric_that_moved_is_told_with_its_interval(tmp_path):
    found = compare_runs(*pair(tmp_path, steps=3))
    assert (found.cells, found.alike, found.differing) == (20, 0, ("steps: 12 -> 3",))
    move = next(m for m in found.moved if (m.metric, m.method) == ("clipscore:tiny", "sdxl"))
    assert move.verdict == "better" and move.comparison.sets == 10
    assert move.comparison.difference.low <= 0.2 <= move.comparison.difference.high
    assert "better" in move.line and "[+0." in move.line


def test_the_same_numbers_of_the_same_units_have_not_moved(tmp_path):
    found = compare_runs(*pair(tmp_path, levels=(0.3, 0.3)))
    assert found.alike == found.cells == 20 and found.moves and not found.moved
    assert "show no difference" in found.text()


def test_numbers_under_two_protocols_are_not_compared(tmp_path):
    one, other = pair(tmp_path)
    score(other, read_plan(plan_path(other)), "clipscore:tiny", {"clipscore": 0.9}, weights="sha256:other")
    found = compare_runs(one, other)
    assert not found.moves and any("measured under two protocols" in line for line in found.left_out)


def test_runs_without_a_common_cell_are_refused(tmp_path):
    one, other = pair(tmp_path, seeds=(7,))
    with pytest.raises(InputError, match="no cell .* is in both plans"):
        compare_runs(one, other)


# ------------------------------------------------------------ a supplement


def test_an_export_holds_the_report_and_names_no_folder_of_the_machine(two, tmp_path):
    run = two[0]
    with pytest.raises(InputError, match="svdstory reduce"):
        export(run, tmp_path / "a.zip")
    assert CliRunner().invoke(app, ["reduce", str(run), "--figures", "sets"]).exit_code == 0
    for name, images in (("a.zip", False), ("b.zip", False), ("c.zip", True)):
        export(run, tmp_path / name, images)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as file:
        names = file.namelist()
        plan = json.loads(file.read("plan.json"))
        units = [file.read(n).decode() for n in names if n.startswith("units/")]
    assert "report/index.html" in names and "report/metrics.csv" in names and len(units) == len(plan["cells"]) == 4
    assert str(tmp_path) not in json.dumps(plan) and not any('"attempt"' in unit for unit in units)
    with zipfile.ZipFile(tmp_path / "c.zip") as file:
        assert sum(n.endswith("/0.png") for n in file.namelist()) == 4
    with pytest.raises(InputError, match="there already"):
        export(run, tmp_path / "a.zip")
