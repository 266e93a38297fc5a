"""The miniature's ground truth as a scorer: the judge's readings through the world's own functions."""

import numpy as np
import pytest
import torch
from PIL import Image

from svdstory.pipeline.metrics.ground_truth import World, accessories_of, kind_of, scenes_of
from svdstory.pipeline.metrics.registry import load_scorer
from svdstory.pipeline.metrics.scorer import UnitImages
from svdstory.pipeline.miniature.judges import Judge, load_judge, read_pictures, save_judge
from svdstory.pipeline.miniature.world import SETTINGS, draw_identity, draw_view, leakage, render, truth

PROMPTS = ["A photo of a gift box in the snow", "A photo of a gift box under the sea"]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    """A judge with random weights, saved and loaded as the trained one."""
    folder = tmp_path_factory.mktemp("judge")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_judge(Judge(), folder)
    return World("world", folder / "judge.safetensors", "sha")


def unit(count=2):
    rng = np.random.default_rng(0)
    views = [draw_view(rng, kind="gift box", scene=scene, accessory="") for scene in ("snow", "sea")[:count]]
    pictures = [Image.fromarray(render(view).image) for view in views]
    return UnitImages(pictures, PROMPTS[:count], "a gift box")


def test_the_numbers_are_the_worlds_own_functions_of_the_judges_readings(scorer):
    pictures = np.stack([np.asarray(image) for image in unit().images])
    readings = read_pictures(load_judge(scorer.weights.parent), pictures)
    values = scorer.score(unit())
    assert values["identity_distance"] == pytest.approx(truth.identity_distance(readings), abs=1e-6)
    assert values["scene_leakage"] == pytest.approx(leakage.background_leakage(readings, ["snow", "sea"]), abs=1e-6)
    assert values["world_background"] == pytest.approx(truth.background_similarity(pictures, readings), abs=1e-6)


def test_units_scored_together_get_the_same_numbers_as_alone(scorer):
    together = scorer.score_many([unit(1), unit(2)])
    assert together[0].keys() == {"kind_accuracy", "scene_accuracy"}  # a single picture has no pairs
    alone = scorer.score(unit(2))
    assert together[1].keys() == alone.keys()
    assert all(together[1][name] == pytest.approx(np.asarray(alone[name]), abs=1e-5) for name in alone)


def test_kind_and_scenes_are_read_from_subject_and_prompts():
    assert kind_of(unit()) == "gift box" and scenes_of(unit()) == ["snow", "sea"]


def test_an_open_set_has_accessories_and_no_scenes_and_carries_its_backgrounds(scorer):
    prompts = ["A photo of a gift box with a ball", "A photo of a gift box wearing a hat in the snow"]
    half_open = UnitImages(unit().images, prompts, "a gift box")
    assert accessories_of(half_open) == ["ball", "hat"] and scenes_of(half_open) == [None, "snow"]
    assert accessories_of(unit()) == ["", ""]
    values = scorer.score(half_open)
    assert not {"scene_accuracy", "scene_leakage"} & set(values) and 0 <= values["accessory_accuracy"] <= 1
    assert np.shape(values["background_looks"]) == (2, 18)


def test_sets_outside_the_world_and_pictures_of_another_size_get_no_numbers(scorer):
    images = list(unit().images)
    outside = [
        UnitImages(images, PROMPTS, "a doctor"),
        UnitImages(images, [PROMPTS[0], "a gift box at the cafe"], "a gift box"),
        UnitImages([image.resize((128, 128)) for image in images], PROMPTS, "a gift box"),
    ]
    found = scorer.score_many([outside[0], unit(), *outside[1:]])
    assert found[0] == found[2] == found[3] == {}
    assert found[1] == scorer.score(unit())


def test_the_shipped_judge_tells_one_subject_from_independent_ones():
    scorer, rng = load_scorer("world"), np.random.default_rng(0)
    distances = []
    for identity in (draw_identity(rng), None):
        views = [draw_view(rng, kind="bus", scene=scene, identity=identity, accessory="") for scene in SETTINGS]
        pictures = [Image.fromarray(render(view).image) for view in views]
        prompts = [f"A photo of a bus {words}" for words in SETTINGS.values()]
        values = scorer.score(UnitImages(pictures, prompts, "a bus"))
        assert values["kind_accuracy"] == values["scene_accuracy"] == 1 and values["scene_leakage"] < 0.05
        distances.append(values["identity_distance"])
    assert distances[0] < 0.3 < distances[1]


def test_the_miniatures_own_clip_prefers_the_right_prompt_and_reads_it_without_a_prefix():
    right, swapped = unit(), UnitImages(unit().images, PROMPTS[::-1], "a gift box")
    scorer = load_scorer("clipscore:miniature")
    assert scorer.score(right)["clipscore"] > scorer.score(swapped)["clipscore"] + 0.2
    assert "caption prefix ''" in scorer.protocol["formula"] and len(scorer.protocol["weights"]) == 64


def test_the_miniatures_clip_takes_pictures_of_any_size():
    larger = UnitImages([image.resize((128, 128)) for image in unit().images], PROMPTS, "a gift box")
    assert load_scorer("clipscore:miniature").score(larger)["clipscore"] > 0
