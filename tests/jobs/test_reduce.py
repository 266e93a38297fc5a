"""Reduce: from a run's files to a report that hides nothing."""

import csv
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from svdstory.jobs.report import parts
from svdstory.jobs.report import reduce as reducing
from svdstory.jobs.report.cells import read_study
from svdstory.jobs.report.reduce import file_names
from svdstory.jobs.study.scores import image_hashes, images_digest, shard_paths
from svdstory.jobs.study.store import Attempt, Store
from svdstory.pipeline.config.prompt_files import read_sets
from svdstory.pipeline.config.strict import InputError
from tests.jobs.pretend import process
from tests.jobs.synthetic import publish, score, synthetic_run


def reduce(run, figures=("comparison", "tradeoff"), **how):
    """The reduce of the command, with two of the figures at most: each takes a second."""
    return reducing.reduce(run, figures=figures and list(figures), **how)


def content(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name[0] != "."
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A complete, scored and reduced run: read it, don't change it."""
    run = tmp_path_factory.mktemp("whole")
    plan = synthetic_run(run)
    score(run, plan, "clipscore:tiny", {"clipscore": 0.7})
    return run, plan, reduce(run)


@pytest.fixture
def run(whole, tmp_path):
    """A copy of it, to be damaged."""
    shutil.copytree(whole[0], tmp_path / "run")
    return tmp_path / "run"


def test_complete_run_gives_one_grid_for_each_set_and_no_hole(whole):
    run, plan, result = whole
    assert result.complete
    assert sorted(p.name for p in (run / "report" / "grids").iterdir()) == ["blue-bus.png", "red-fox.png"]
    assert {"overview.png", "metrics.csv", "index.html"} <= {p.name for p in (run / "report").iterdir()}
    assert "12 cells: 12 done" in result.summary


def test_every_png_says_its_prompts_seeds_methods_and_units(whole):
    run, plan, _ = whole
    for path in (run / "report").rglob("*.png"):
        chunks = Image.open(path).text
        assert {"prompt", "seed", "method", "unit"} <= set(chunks), path
    chunks = Image.open(run / "report" / "grids" / "blue-bus.png").text
    assert chunks["prompt"].split("\n") == plan.sets["blue-bus"].prompts
    assert chunks["method"].split("\n") == list(plan.methods)
    assert chunks["unit"].split("\n") == [key for key, cell in plan.units.items() if cell.set == "blue-bus"]


def test_second_reduce_makes_nothing_and_leaves_the_report_in_place(whole):
    run, _, _ = whole
    before = (run / "report").stat().st_ino, content(run / "report")
    again = reduce(run)
    assert not again.made and len(again.kept) == len(before[1])
    assert before == ((run / "report").stat().st_ino, content(run / "report"))


def test_the_same_inputs_give_the_same_bytes_without_any_cache(whole, run):
    shutil.rmtree(run / "report")
    shutil.rmtree(run / "cache")
    reduce(run)
    assert content(run / "report") == content(whole[0] / "report")


def test_missing_failed_and_corrupt_units_are_holes_with_their_cause(whole, run):
    plan = whole[1]
    missing, failed, short, changed = list(plan.units)[:4]
    store = Store(run)
    for key in (missing, failed):
        shutil.rmtree(store.folder(key))
    store.record_failure(failed, "out of memory", "trace", Attempt.here())
    (store.folder(short) / "1.png").write_bytes(b"cut off")
    whole_file = store.folder(changed) / "0.png"
    whole_file.write_bytes(whole_file.read_bytes()[:-20] + b"x" * 20)
    shutil.rmtree(run / "cache")  # what reduce has seen before, it does not read again
    result = reduce(run)
    assert not result.complete
    assert "12 cells: 8 done, 1 failed (1 out of memory), 1 missing, 2 corrupt" in result.summary
    rows = {row["unit"]: row for row in csv.DictReader(io.StringIO((run / "report/metrics.csv").read_text()))}
    assert [rows[key]["state"] for key in (missing, failed, short, changed)] == [
        "missing",
        "failed",
        "corrupt",
        "corrupt",
    ]
    assert rows[short]["missing_because"].startswith("1.png: 7 bytes, expected")
    assert rows[changed]["missing_because"] == "0.png: content differs from its sha256"
    assert rows[changed]["value"] == ""
    assert reduce(run).counts == result.counts  # it does not forget the damage that it saw


def test_a_unit_made_later_changes_only_its_sets_grid(whole, run):
    plan = whole[1]
    key = next(key for key, cell in plan.units.items() if cell.set == "red-fox")
    shutil.rmtree(Store(run).folder(key))
    assert not reduce(run).complete
    publish(run, plan, key)
    result = reduce(run)
    assert result.complete and "grids/blue-bus.png" in result.kept and "grids/red-fox.png" in result.made


def test_metrics_have_one_row_for_each_cell_and_metric_with_the_protocol(whole):
    run, plan, _ = whole
    rows = list(csv.DictReader(io.StringIO((run / "report" / "metrics.csv").read_text())))
    assert len(rows) == len(plan.cells)
    assert all('"weights":"sha256:abc"' in row["protocol"] for row in rows)
    assert all(float(row["value"]) > 0.7 for row in rows)


def test_scores_of_other_images_do_not_count(whole, run):
    plan = whole[1]
    key = next(iter(plan.units))
    (path,) = shard_paths(run)
    images = images_digest(image_hashes(Store(run).manifest(key)))
    path.write_text(path.read_text().replace(images, "f" * len(images)))
    reduce(run)
    rows = {row["unit"]: row for row in csv.DictReader(io.StringIO((run / "report/metrics.csv").read_text()))}
    assert rows[key]["value"] == "" and "images changed" in rows[key]["missing_because"]


def test_random_weights_are_said_in_the_notes(tmp_path):
    plan = synthetic_run(tmp_path, sets=("blue-bus",), methods=("sdxl",), seeds=(0,))
    score(tmp_path, plan, "clipscore:tiny", {"clipscore": 0.5}, weights="random")
    notes = reduce(tmp_path).notes
    assert "the images are noise" in notes[0] and "its numbers mean nothing" in notes[1]


def test_a_crash_leaves_the_present_report_as_it_was(whole, run, monkeypatch):
    shutil.rmtree(Store(run).folder(next(iter(whole[1].units))))
    before = content(run / "report")
    monkeypatch.setattr("svdstory.jobs.report.reduce.metrics_csv", lambda study: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        reduce(run)
    assert content(run / "report") == before
    assert not list(run.glob(".report*"))


def test_a_full_disk_is_one_clear_message(whole, run, monkeypatch):
    def full(study):
        raise OSError(errno.ENOSPC, "No space left on device")

    shutil.rmtree(Store(run).folder(next(iter(whole[1].units))))
    monkeypatch.setattr("svdstory.jobs.report.reduce.metrics_csv", full)
    with pytest.raises(InputError, match="cannot be written .No space left on device."):
        reduce(run)


def test_two_reduces_at_once_both_end_well_with_one_report(whole, run):
    shutil.rmtree(run / "report")
    code = "import sys; from pathlib import Path; from tests.jobs.test_reduce import reduce; reduce(Path(sys.argv[1]))"
    both = [subprocess.Popen([sys.executable, "-c", code, str(run)]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert content(run / "report") == content(whole[0] / "report")
    assert not list(run.glob(".report*"))


def test_what_a_killed_reduce_left_is_swept(run):
    left = run / f".report.{process()}"
    left.mkdir()
    reduce(run)
    assert not left.exists()


def test_a_report_that_a_killed_reduce_had_moved_away_comes_back(whole, run):
    os.rename(run / "report", run / f".report.{process()}.old")
    assert not reduce(run).made
    assert content(run / "report") == content(whole[0] / "report")


def test_a_pack_whose_bytes_are_damaged_is_made_anew(whole, run):
    pack = next((run / "cache" / "thumbnails").glob("*.zip"))
    damaged = bytearray(pack.read_bytes())
    damaged[60:200] = bytes(140)  # of the first thumbnail; its directory is whole
    pack.write_bytes(damaged)
    shutil.rmtree(run / "report")
    reduce(run)
    assert content(run / "report") == content(whole[0] / "report")


def test_holes_in_the_baseline_and_in_the_best_method_on_different_sets_still_give_a_report(tmp_path):
    plan = synthetic_run(tmp_path, seeds=(0,), methods=("consistory", "svd-log"))
    holes = {(c.set, c.method): key for key, c in plan.units.items()}
    skip = {holes["blue-bus", "consistory"], holes["red-fox", "svd-log"]}
    for key in skip:
        shutil.rmtree(Store(tmp_path).folder(key))
    score(tmp_path, plan, "dreamsim", {"dreamsim_subject": 0.5}, skip=skip)
    assert not reduce(tmp_path).complete
    assert "most consistent" not in (tmp_path / "report" / "index.html").read_text()


def test_a_figure_and_a_grid_that_fail_are_holes_with_their_cause_and_cost_nothing_else(whole, run, monkeypatch):
    def fail(*_):
        raise RuntimeError("raqm_layout() failed")

    shutil.rmtree(run / "report")
    with monkeypatch.context() as patched:
        patched.setattr("svdstory.jobs.report.figures.pictures.draw_comparison", fail)
        patched.setattr("svdstory.jobs.report.figures.scatter.why_not_tradeoff", fail)
        patched.setattr("svdstory.jobs.report.figures.scatter.draw_tradeoff", fail)
        patched.setattr("svdstory.jobs.report.set_grids.draw_grid", fail)
        result = reduce(run)
    broken = {"figures/comparison.png", "figures/tradeoff.png", "grids/blue-bus.png", "grids/red-fox.png"}
    assert set(result.broken) == broken | {"figures/not-drawn.json"} and not result.complete
    assert "grids/red-fox.png could not be made: RuntimeError: raqm_layout() failed (test_reduce" in result.summary
    page = (run / "report" / "index.html").read_text()
    assert page.count("could not be made: RuntimeError: raqm_layout() failed") == 5 and "comparison.pdf" not in page
    assert all(Image.open(run / "report" / name).size == (800, 200) for name in broken)
    assert reduce(run).complete  # what failed is tried again
    assert content(run / "report") == content(whole[0] / "report")


def test_no_text_of_a_user_can_break_a_report(tmp_path):
    odd = tmp_path / "odd.yaml"
    odd.write_text(
        'name: "odd $ $ \\n _{^ \\u2028 | `x` \\u202e name"\nstyle: "A\\tphoto\\nof"\nsubject: |\n  a red\n  fox $1 and $2\n'
        'concept: fox\nsettings: ["in\\nsnow \\x01", "50 % & $x$ #1 ~ \\\\frac{"]\ngroup: bad\n'
    )
    plan = synthetic_run(tmp_path / "run", sets=("red-fox", str(odd)), methods=("consistory", "svd-log"), seeds=(0,))
    score(tmp_path / "run", plan, "dreamsim", {"dreamsim": 0.3, "dreamsim_subject": 0.4})
    score(tmp_path / "run", plan, "clipscore:tiny", {"clipscore": 0.7})
    result = reduce(tmp_path / "run", figures=None)
    assert not result.broken and result.complete
    assert not {"sets", "winners", "good-bad", "comparison"} & set(result.not_drawn)  # these write users' words
    report = (tmp_path / "run" / "report" / "report.md").read_text()
    assert all(line.count(" | ") == 3 - 1 for line in report.splitlines() if line.startswith("| SVD"))


def test_means_over_different_sets_say_their_n_and_which_sets_are_left_out(tmp_path):
    plan = synthetic_run(tmp_path, seeds=(0,), methods=("consistory", "svd-log"))
    score(tmp_path, plan, "clipscore:tiny", {"clipscore": 0.7})
    skip = {key for key, cell in plan.units.items() if cell.set == "blue-bus"}
    score(tmp_path, plan, "dreamsim", {"dreamsim_subject": 0.5}, skip=skip)
    reduce(tmp_path)
    report = (tmp_path / "report" / "report.md").read_text()
    assert "Means over n prompt sets" in report and " n = 1 |" in report and " n = 2 |" in report
    said = "DreamSim distance (subject): 1 of 2 sets are left out of means: blue-bus (all methods: not scored)"
    assert f"- {said}" in report and said in (tmp_path / "report" / "index.html").read_text()


def test_means_over_the_same_sets_say_their_n_once(whole):
    report = (whole[0] / "report" / "report.md").read_text()
    assert "Means over 2 prompt sets" in report and " n = " not in report.partition("| method")[2]


def test_names_that_users_gave_become_safe_and_distinct_file_names(whole, tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.yaml").write_text(
            f"name: '{ {'a': '../Fox', 'b': 'fox', 'c': 'FOX!'}[name] }'\n"
            "style: A photo of\nsubject: a fox\nconcept: fox\nsettings: [in snow, in sand]\n"
        )
    sets = tuple(str(tmp_path / f"{name}.yaml") for name in "abc")
    synthetic_run(tmp_path / "run", sets=sets, methods=("sdxl",), seeds=(0,))
    assert list(file_names(read_study(tmp_path / "run")).values()) == ["fox", "fox-2", "fox-3"]


def test_a_folder_without_a_plan_is_refused(tmp_path):
    with pytest.raises(InputError, match="no plan here"):
        reduce(tmp_path)


def test_reduce_does_not_import_torch():
    code = (
        "import sys, svdstory.jobs.report.reduce, svdstory.jobs.cli.commands_report; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("group", ["../../../../escaped", "a_b % $c$ \\input{x}", "=1+1"])
def test_a_group_of_any_words_stays_inside_the_report_and_is_no_markup(tmp_path, group):
    (tmp_path / "fox.yaml").write_text(
        f"style: A photo of\nsubject: a red fox\nconcept: fox\nsettings: [in the snow, at sea]\ngroup: {json.dumps(group)}\n"
    )
    run = tmp_path / "deep" / "er" / "run"
    plan = synthetic_run(run, sets=(str(tmp_path / "fox.yaml"), "blue-bus"), methods=("sdxl",))
    score(run, plan, "dreamsim", {"dreamsim_subject": 0.5})
    before = {path for path in tmp_path.rglob("*") if run not in path.parents}
    result = reduce(run)
    assert {path for path in tmp_path.rglob("*") if run not in path.parents} == before
    tables = sorted((run / "report" / "tables").glob("*.tex"))
    assert len(tables) == 3 and all(re.fullmatch(r"methods-[\w.-]+\.tex", path.name) for path in tables)
    text = "".join(path.read_text() for path in tables)
    assert "\\input{x}" not in text and "\\label{tab:methods-all}" in text and text.count("\\label{") == 3
    cells = list(csv.DictReader(io.StringIO((run / "report" / "metrics.csv").read_text())))
    assert not [cell for row in cells for cell in row.values() if cell.startswith("=")]
    assert result.report.is_dir()


def test_a_group_that_is_called_like_all_sets_together_is_refused(tmp_path):
    (tmp_path / "fox.yaml").write_text(
        "style: A photo of\nsubject: a fox\nconcept: fox\nsettings: [in the snow]\ngroup: All\n"
    )
    with pytest.raises(InputError, match="give `group:` another word"):
        read_sets(tmp_path / "fox.yaml")


def test_above_a_stated_size_the_report_is_made_by_group_and_says_so(tmp_path, monkeypatch):
    plan = synthetic_run(
        tmp_path, sets=("blue-bus", "red-fox", "world-bus"), methods=("sdxl", "consistory"), seeds=(0,)
    )
    score(tmp_path, plan, "clipscore:tiny", {"clipscore": 0.7})
    whole = reduce(tmp_path, figures=[])
    numbers = {name: (tmp_path / "report" / name).read_bytes() for name in ("metrics.csv", "statistics.json")}
    monkeypatch.setattr(parts, "CELLS", 4)
    result = reduce(tmp_path, figures=[])
    folders = sorted(path.name for path in (tmp_path / "report" / "parts").iterdir())
    assert len(folders) == len({prompts.group for prompts in plan.sets.values()}) == 3
    for name in folders:
        page = (tmp_path / "report" / "parts" / name / "index.html").read_text()
        assert "consistory" in page and Image.open(tmp_path / "report" / "parts" / name / "overview.png").size
    page = (tmp_path / "report" / "index.html").read_text()
    assert "more than 4 cells" in page and all(f'href="parts/{name}/index.html"' in page for name in folders)
    assert "made in 3 parts" in result.summary and "parts" not in whole.summary
    assert not (tmp_path / "report" / "overview.png").exists()
    assert numbers == {name: (tmp_path / "report" / name).read_bytes() for name in numbers}
    assert not reduce(tmp_path, figures=[]).made


def test_many_seeds_are_spread_over_several_grids(tmp_path, monkeypatch):
    synthetic_run(tmp_path, sets=("blue-bus",), methods=("sdxl",), seeds=(0, 1, 2))
    monkeypatch.setattr("svdstory.jobs.report.set_grids.SEEDS", 2)
    reduce(tmp_path, figures=[])
    grids = {path.name: Image.open(path).width for path in (tmp_path / "report" / "grids").iterdir()}
    assert list(sorted(grids)) == ["blue-bus.2.png", "blue-bus.png"] and grids["blue-bus.2.png"] < grids["blue-bus.png"]
