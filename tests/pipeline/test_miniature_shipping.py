"""What is shipped: whole, small, and judged by what it draws."""

import json

import pytest

from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.miniature import WEIGHTS
from svdstory.pipeline.miniature.evaluation import SET_SIZE, SETS, agreement, evaluate, evaluation_views, set_prompts
from svdstory.pipeline.miniature.export import ship
from svdstory.pipeline.miniature.world import KINDS, SCENE_NAMES, all_captions, caption, render
from svdstory.pipeline.miniature.world.truth import true_reading


def trained(folder):
    """A training's output with every file that is shipped, as far as shipping looks at it."""
    for name in (
        "miniature/model_index.json",
        "miniature/unet/weights.safetensors",
        "judges/judge.safetensors",
        "judges/clip.safetensors",
        "training.log",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_pipeline_judges_and_log_are_shipped_together_readable_for_all(tmp_path):
    size = ship(trained(tmp_path / "out"), tmp_path / "my weights")
    files = [file for file in (tmp_path / "my weights").rglob("*") if file.is_file()]
    names = {str(file.relative_to(tmp_path / "my weights")) for file in files}
    assert names == {
        "model_index.json",
        "unet/weights.safetensors",
        "judges/judge.safetensors",
        "judges/clip.safetensors",
        "training.log",
    }
    assert size == sum(file.stat().st_size for file in files)
    assert {file.stat().st_mode & 0o777 for file in files} == {0o644}


def test_nothing_is_shipped_while_a_part_is_missing(tmp_path):
    out = trained(tmp_path / "out")
    (out / "judges" / "clip.safetensors").unlink()
    with pytest.raises(InputError, match="clip.safetensors: not there yet, nothing is shipped"):
        ship(out, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_evaluation_asks_for_every_kind_in_every_scene_alike_in_the_worlds_own_words():
    views = evaluation_views(72)
    asked = [(view.kind, view.scene) for view in views]
    assert all(asked.count((kind, scene)) == 2 for kind in KINDS for scene in SCENE_NAMES)
    assert {caption(view) for view in views} <= set(all_captions())
    prompts = set_prompts()
    assert len(prompts) == SETS * SET_SIZE and len(set(prompts[:SET_SIZE])) == SET_SIZE


def test_renders_of_what_was_asked_agree_fully_and_renders_of_the_next_kind_not_at_all():
    views = evaluation_views(144)
    readings = [true_reading(render(view)) for view in views]
    agreed = agreement(views, readings)
    open_scenes = [agreed.pop(f"open captions, {scene}") for scene in SCENE_NAMES]
    assert set(agreed.values()) == {1.0} and sum(open_scenes) == pytest.approx(1.0)
    shifted = agreement(views, readings[1:] + readings[:1])
    same = [one.scene == other.scene for one, other in zip(views, views[1:] + views[:1]) if one.scene_named]
    assert shifted["kind"] == 0.0 and shifted["kind, cat"] == 0.0 and any(same) and not all(same)
    assert shifted["scene"] == pytest.approx(sum(same) / len(same))


def test_the_shipped_miniature_draws_mostly_what_is_asked_and_writes_its_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("svdstory.pipeline.miniature.evaluation.SETS", 1)
    result = evaluate(WEIGHTS, count=12, steps=8, out=tmp_path)
    assert result["scene"] >= 0.75 and 0.0 <= result["kind"] <= 1.0
    assert json.loads((tmp_path / "evaluation.json").read_text())["pictures"] == 12
    assert {file.name for file in tmp_path.iterdir()} == {
        "world.png",
        "samples.png",
        "plain-sets.png",
        "evaluation.json",
    }


def test_what_is_shipped_is_at_most_twenty_megabytes_and_loads_nothing_but_safetensors():
    files = [file for file in WEIGHTS.rglob("*") if file.is_file()]
    judges = [file for file in files if "judges" in file.parts]
    pipeline = [file for file in files if "judges" not in file.parts]
    assert sum(file.stat().st_size for file in pipeline) <= 16 * 2**20
    assert sum(file.stat().st_size for file in judges) <= 4 * 2**20
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".txt", ".log"}
