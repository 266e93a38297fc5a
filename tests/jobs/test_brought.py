"""A user's own method in a study: a Python function, or pictures that another tool made."""

import io
import json
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from svdstory.jobs.cli import app
from svdstory.jobs.report.cells import read_study
from svdstory.jobs.report.labels import method_label
from svdstory.jobs.study.elsewhere import bring_in
from svdstory.jobs.study.experiment import Experiment
from svdstory.jobs.study.notes import notes
from svdstory.jobs.study.plan import make_plan, read_plan, write_plan
from svdstory.jobs.study.run_folder import check_growth, prepare
from svdstory.jobs.study.store import Store
from svdstory.pipeline.config.strict import InputError, parse

FOX = {"style": "A photo of", "subject": "a red fox", "concept": ["fox"], "settings": ["in the snow", "at night"]}
FLUX = {"name": "flux", "pictures": "elsewhere/{set}/{seed}/{image}.png"}
MINE = {"name": "mine", "python": "mine.py:draw", "set": {"amount": 40}}
CODE = """
from nets import noise

def draw(model, prompts, *, size, switches, **others):
    if switches["amount"] < 0:
        raise RuntimeError("a bug of mine")
    return [noise(size, switches["amount"]) for _ in prompts.prompts]
"""


@pytest.fixture
def folder(tmp_path):
    for name in ("fox", "cat"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(FOX))
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "nets.py").write_text(
        "from PIL import Image\n\ndef noise(size, s): return Image.effect_noise(size, s)\n"
    )
    for name in ("fox", "cat"):
        for seed in (0, 1):
            for image in (0, 1):
                picture(tmp_path, f"elsewhere/{name}/{seed}/{image}.png")
    return tmp_path


def picture(folder, name: str, size=(48, 32)) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 60).save(folder / name)


def planned(folder, *methods, **content):
    content = {
        "sets": ["fox.yaml", "cat.yaml"],
        "model": "tiny",
        "steps": 2,
        "size": [64, 64],
        "seeds": [0, 1],
        **content,
    }
    return make_plan("test", parse(Experiment, {"methods": list(methods or (FLUX,)), **content}, "test"), folder)


def brought(folder, plan) -> Store:
    store = prepare(plan, folder / "run")
    bring_in(plan, store)
    return store


def key_of(plan, name="fox", seed=0) -> str:
    return next(cell.key for cell in plan.cells if (cell.set, cell.seed) == (name, seed))


# ------------------------------------------------------------ pictures made elsewhere


def test_pictures_made_elsewhere_become_units_that_say_so_with_the_sha256_of_their_files(folder):
    plan = planned(folder)
    store = brought(folder, plan)
    assert store.finished(plan.units) == set(plan.units) and len(plan.units) == 4
    manifest = store.manifest(key_of(plan))
    source = folder / "elsewhere" / "fox" / "0" / "1.png"
    assert manifest["made_elsewhere"]["1.png"]["file"] == str(source)
    assert manifest["device"] == "elsewhere" and "steps" not in json.dumps(manifest)
    image = Image.open(store.folder(key_of(plan)) / "1.png")
    assert image.size == (48, 32) and image.text["note"] == "made elsewhere: imported from 1.png"
    assert np.array_equal(np.asarray(image), np.asarray(Image.open(source).convert("RGB")))


def test_a_unit_of_pictures_is_another_when_a_picture_changes_and_not_when_the_setting_does(folder):
    first, setting = planned(folder), planned(folder, steps=3, model="miniature")
    assert list(setting.units) == list(first.units)
    picture(folder, "elsewhere/fox/0/1.png")
    again = planned(folder)
    assert [a == b for a, b in zip(first.units, again.units)] == [False, True, True, True]


def test_a_missing_picture_is_a_hole_that_the_plan_and_the_report_name(folder):
    (folder / "elsewhere" / "fox" / "1" / "0.png").unlink()
    (folder / "elsewhere" / "cat" / "0" / "1.png").write_bytes(b"no picture")
    plan = planned(folder, "sdxl", FLUX)
    assert "1 of 8 pictures are not there, first" in notes(plan)[-2]
    store = brought(folder, plan)
    bring_in(plan, store)
    assert len(list((folder / "run" / "failures").glob("*.json"))) == 2  # each is recorded once
    study = read_study(folder / "run")
    assert [p.hole for p in study.places if "flux" in p.cell.method].count("failed: pictures missing") == 2
    [note] = study.elsewhere
    assert note.startswith(
        "flux (made elsewhere): pictures of another model or tool, imported as they are; 2 of its cells"
    )
    assert "0.png: no such file or directory and 1 more" in note


def test_a_picture_that_comes_later_fills_its_hole_without_replacing_the_plan(folder):
    lost = folder / "elsewhere" / "fox" / "1" / "0.png"
    lost.rename(folder / "kept.png")
    brought(folder, planned(folder))
    (folder / "kept.png").rename(lost)
    plan = planned(folder)
    assert brought(folder, plan).finished(plan.units) == set(plan.units)
    picture(folder, "elsewhere/fox/0/0.png")
    with pytest.raises(InputError, match="other settings for 1"):  # a picture that was there is another one now
        check_growth(planned(folder), folder / "run")


def test_no_task_is_asked_for_what_is_not_there(folder):
    from svdstory.jobs.node.worker import work

    (folder / "elsewhere" / "fox" / "0" / "0.png").unlink()
    plan = planned(folder)
    store = brought(folder, plan)
    outcome = work(plan, store, plan.units, device="cpu")  # and no model is loaded
    assert outcome.failed == {key_of(plan): "pictures missing"} and len(outcome.found) == 3
    assert plan.brought - store.finished(plan.units) == {key_of(plan)}


def test_masks_give_subject_and_background_and_are_not_made_up(folder):
    from svdstory.jobs.node.scoring import load_unit

    for image in (0, 1):
        mask = Image.new("L", (96, 64))
        mask.paste(255, (0, 0, 48, 64))
        (folder / "masks" / "fox").mkdir(parents=True, exist_ok=True)
        mask.save(folder / "masks" / "fox" / f"0-{image}.png")
    plan = planned(folder, {**FLUX, "masks": "masks/{set}/{seed}-{image}.png"})
    store = brought(folder, plan)
    masks = load_unit(store, key_of(plan), store.manifest(key_of(plan))).masks
    assert masks.shape == (2, 64, 64) and masks[:, :, :32].all() and not masks[:, :, 32:].any()
    other = key_of(plan, "cat", 1)
    assert load_unit(store, other, store.manifest(other)).masks is None
    assert len(store.manifest(other)["masks_missing"]) == 2
    assert "6 of 8 masks are not there" in notes(plan)[0]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"pictures": "elsewhere/{set}.png"}, "expected {image} in it"),
        ({"pictures": "elsewhere/{set}/{seed}/{image.real}.png"}, "expected {image} in it"),
        ({"pictures": "elsewhere/{set}/{image}.png"}, "there are several seeds"),
        ({"pictures": "elsewhere/{seed}/{image}.png"}, "there are several sets"),
        ({"pictures": "nowhere/{set}/{seed}/{image}.png"}, "none of its 8 pictures is there; the first would be"),
        ({"set": {"n_anchors": 1}}, "set and sweep would do nothing"),
        ({"base": "sdxl"}, "base and pictures exclude each other"),
        ({"name": "mine", "pictures": None, "masks": "{image}.png"}, "masks belong to pictures"),
        ({"name": "sdxl"}, "taken by svdstory's own"),
    ],
)
def test_pictures_that_cannot_be_placed_are_refused_before_anything_is_written(changes, words, folder):
    with pytest.raises(InputError) as error:
        planned(folder, {**FLUX, **changes})
    assert words in str(error.value)


def test_the_mark_stands_in_every_label(folder):
    assert list(planned(folder).methods) == ["flux (made elsewhere)"]
    assert method_label("flux (made elsewhere)", "ru") == "flux (сделано не здесь)"


def test_pictures_can_be_asked_for_by_the_name_that_the_experiment_gives(folder):
    content = parse(
        Experiment, {"sets": ["fox.yaml"], "methods": ["sdxl", FLUX], "model": "tiny", "seeds": [0]}, "test"
    )
    assert list(make_plan("test", content, folder, methods=["flux"]).methods) == ["flux (made elsewhere)"]


# ------------------------------------------------------------ a Python function


def test_a_function_of_the_users_makes_units_and_its_failure_is_a_units_failure(folder):
    from svdstory.jobs.node.worker import work

    plan = planned(folder, {**MINE, "set": {}, "sweep": {"amount": [40, -1]}}, sets=["fox.yaml"], seeds=[0])
    assert list(plan.methods) == ["mine-40", "mine--1"]
    store, (sound, broken) = prepare(plan, folder / "run"), plan.units
    outcome = work(plan, store, plan.units, device="cpu")
    assert outcome.made == [sound] and outcome.failed == {broken: "bug"}
    assert 'raise RuntimeError("a bug of mine")' in store.failures()[broken][0].message
    manifest = store.manifest(sound)
    assert (
        manifest["method"]["function"].keys() == {"name", "sha256", "set"}
        and "tensors.safetensors" not in manifest["files"]
    )


def test_what_was_planned_is_what_runs_whatever_is_edited_meanwhile(folder):
    from svdstory.jobs.node.worker import work

    plan = planned(folder, MINE, sets=["fox.yaml"], seeds=[0])
    planned_path = write_plan(plan, folder / "run")
    for name in ("mine.py", "nets.py"):
        (folder / name).unlink()
    again = read_plan(planned_path)
    assert work(again, Store(folder / "run"), again.units, device="cpu").made == list(plan.units)


def test_a_functions_key_is_of_its_code_and_switches_not_of_its_files_name(folder):
    [key] = planned(folder, MINE, sets=["fox.yaml"], seeds=[0]).units
    (folder / "mine.py").rename(folder / "renamed.py")
    moved = {**MINE, "name": "other", "python": "renamed.py:draw"}
    assert list(planned(folder, moved, sets=["fox.yaml"], seeds=[0]).units) == [key]
    assert list(planned(folder, {**moved, "set": {"amount": 41}}, sets=["fox.yaml"], seeds=[0]).units) != [key]
    (folder / "nets.py").write_text("def noise(size, s): ...")
    assert list(planned(folder, moved, sets=["fox.yaml"], seeds=[0]).units) != [key]


def test_a_model_that_a_function_spoiled_is_loaded_anew(folder, monkeypatch):
    from svdstory.jobs.node import worker

    spoil = "    model.pipe.unet.conv_in.weight.data.mul_(2)\n    return"
    (folder / "mine.py").write_text(CODE.replace("    return", spoil))
    plan, loaded = planned(folder, MINE, "sdxl", sets=["fox.yaml"], seeds=[0]), []
    load = worker.load_model
    monkeypatch.setattr(worker, "load_model", lambda *a, **how: loaded.append(load(*a, **how)) or loaded[-1])
    worker.work(plan, prepare(plan, folder / "run"), plan.units, device="cpu")
    assert len(loaded) == 2 and loaded[0].spoiled and not loaded[1].spoiled


def test_a_bad_function_ends_the_command_with_status_2_and_leaves_no_run(folder, monkeypatch, capsys):
    (folder / "mine.py").write_text("import nothing_that_is_here\ndef draw(model): ...")
    content = {"sets": ["fox.yaml"], "methods": [MINE], "model": "tiny"}
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr(sys, "argv", ["svdstory", "run", str(folder / "study.yaml"), "--out", str(folder / "run")])
    with pytest.raises(SystemExit) as end:
        app.main()
    assert end.value.code == 2 and not (folder / "run").exists()
    assert "mine.py, line 2: draw(model) cannot be called as it will be" in capsys.readouterr().err


def test_the_five_minute_walk_of_the_rooms_page_is_literally_so(tmp_path, monkeypatch):
    import re
    import runpy
    from pathlib import Path

    from svdstory.jobs.node.worker import work

    page = (Path(__file__).parents[2] / "jobs" / "study" / "README.md").read_text(encoding="utf-8")
    mine, tool = re.findall(r"```python\n(.*?)```", page, re.S)
    study = yaml.safe_load(re.search(r"```yaml\n(.*?)```", page, re.S)[1])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_method.py").write_text(mine)
    (tmp_path / "another_tool.py").write_text(tool.replace("num_inference_steps=8", "num_inference_steps=1"))
    runpy.run_path("another_tool.py")
    plan = make_plan("mine", parse(Experiment, {**study, "steps": 2}, "mine.yaml"), tmp_path)
    assert list(plan.methods)[-3:] == ["mine-0.5", "mine-0.9", "other-tool (made elsewhere)"]
    store = brought(tmp_path, plan)
    assert store.finished(plan.units) == plan.brought
    own = [
        key for key, cell in plan.units.items() if (cell.set, cell.seed, cell.method) == ("world-cat", 0, "mine-0.5")
    ]
    assert work(plan, store, own, device="cpu").made == own


def test_a_png_made_elsewhere_keeps_no_text_of_its_own(folder):
    from PIL import PngImagePlugin

    from svdstory.jobs.study.elsewhere import as_png

    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "another's")
    Image.effect_noise((8, 8), 50).save(folder / "one.png", pnginfo=info)
    assert Image.open(io.BytesIO(as_png(folder / "one.png", {"prompt": "ours"}))).text == {"prompt": "ours"}
