"""The ground-truth metrics on readings whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from svdstory.pipeline.miniature.world import (
    KINDS,
    SCENE_LOOKS,
    Identity,
    draw_view,
    leakage,
    render,
    truth,
)
from svdstory.pipeline.miniature.world.truth import true_reading

SCENES = ["desert", "snow", "meadow", "sea"]


def set_of(identities, scenes=SCENES, seed=0, look=None):
    """One bus a scene, drawn with these identities."""
    given = {"kind": "bus", "accessory": "", "look": look}
    return [
        render(draw_view(np.random.default_rng((seed, number)), identity=identity, scene=scene, **given))
        for number, (identity, scene) in enumerate(zip(identities, scenes))
    ]


def readings_of(identities, **given):
    return [true_reading(picture) for picture in set_of(identities, **given)]


SAME = [Identity(45, 225, "striped", 0.3)] * 4
OTHERS = [
    Identity(0, 90, "plain", 0.0),
    Identity(90, 180, "plain", 1.0),
    Identity(180, 270, "striped", 0.0),
    Identity(270, 0, "striped", 1.0),
]


def test_one_subject_in_four_scenes_is_at_distance_nothing():
    assert truth.identity_distance(readings_of(SAME)) == 0.0


def test_distances_of_known_identities_are_their_mean_over_pairs():
    readings = readings_of(OTHERS)
    assert truth.body_hue_distance(readings) == pytest.approx((4 * 90 + 2 * 180) / 6)
    assert truth.pattern_distance(readings) == pytest.approx(4 / 6)
    assert truth.shape_distance(readings) == pytest.approx(4 / 6)


def test_independent_draws_of_the_world_are_at_identity_distance_one():
    pictures = [render(draw_view(np.random.default_rng((4, number)), kind="cat")) for number in range(90)]
    assert truth.identity_distance([true_reading(picture) for picture in pictures]) == pytest.approx(1.0, abs=0.1)


def test_hues_are_angles_so_350_and_10_are_twenty_degrees_apart():
    assert truth.hue_angle(350, 10) == 20 and truth.hue_angle(10, 350) == 20 and truth.hue_angle(0, 180) == 180


def test_kind_and_scene_are_right_for_the_truth_and_half_right_for_swapped_scenes():
    readings = readings_of(SAME)
    assert truth.kind_accuracy(readings, "bus") == 1.0 and truth.kind_accuracy(readings, "cat") == 0.0
    assert truth.scene_accuracy(readings, SCENES) == 1.0
    assert truth.scene_accuracy(readings, ["snow", "desert", "meadow", "sea"]) == 0.5


def looks_of(scene):
    """Every patch shows the first look of `scene`."""
    index = next(number for number, (name, _) in enumerate(SCENE_LOOKS) if name == scene)
    return np.broadcast_to(np.eye(len(SCENE_LOOKS))[index], (truth.PATCHES, truth.PATCHES, len(SCENE_LOOKS)))


def test_leakage_is_the_share_of_background_that_shows_another_scene_of_the_set():
    readings = readings_of(SAME)
    assert leakage.background_leakage(readings, SCENES) == 0.0
    patches = readings[0].patch_look.copy()
    upper = truth.PATCHES // 2
    patches[:upper] = looks_of("sea")[:upper]
    weight = leakage.background_weight(readings[0])
    leaked = leakage.background_leakage([replace(readings[0], patch_look=patches), *readings[1:]], SCENES)
    assert leaked == pytest.approx(weight[:upper].sum() / weight.sum() / 4)


def test_a_scene_that_is_not_in_the_set_is_no_leakage():
    readings = [replace(one, patch_look=looks_of("night city")) for one in readings_of(SAME)]
    assert leakage.background_leakage(readings, SCENES) == 0.0


def test_neither_the_subject_nor_what_it_wears_counts_as_background():
    view = draw_view(np.random.default_rng(2), kind="cat", accessory="balloon")
    reading = true_reading(render(view))
    weight = leakage.background_weight(reading)
    for mask in (reading.mask, reading.accessory_mask):
        centre = np.argwhere(mask).mean(axis=0).astype(int) * truth.PATCHES // 64
        assert weight[tuple(centre)] == 0.0
    side = 64 // truth.PATCHES
    covered = (
        (reading.mask | reading.accessory_mask).reshape(truth.PATCHES, side, truth.PATCHES, side).mean(axis=(1, 3))
    )
    assert weight.sum() > 0 and (covered[weight > 0] <= 0.1).all()


def test_beside_plain_sampling_a_picture_owns_what_plain_drew_even_a_look_of_the_same_scene():
    plain = np.eye(len(SCENE_LOOKS))[[0, 1, 5]]  # two looks of the desert, one of the snow
    assert leakage.leakage_beside_plain(plain, plain) == 0.0
    half = plain.copy()
    half[0] = (plain[0] + plain[1]) / 2
    assert leakage.leakage_beside_plain(half, plain) == pytest.approx(0.5 / 3)
    half[0] = (plain[0] + np.eye(len(SCENE_LOOKS))[3]) / 2  # another look of the snow's is still the third one's scene
    assert leakage.leakage_beside_plain(half, plain) == pytest.approx(0.5 / 3)
    half[0] = (plain[0] + np.eye(len(SCENE_LOOKS))[2]) / 2  # a look of its own scene that no other picture has
    assert leakage.leakage_beside_plain(half, plain) == 0.0
    elsewhere = np.eye(len(SCENE_LOOKS))[[9, 9, 9]]  # what plain drew in none of them is no leakage
    assert leakage.leakage_beside_plain(elsewhere, plain) == 0.0
    with pytest.raises(ValueError, match="got 2 backgrounds and 3 plain ones"):
        leakage.leakage_beside_plain(plain[:2], plain)
    with pytest.raises(ValueError, match="got 2 backgrounds and 3 owners"):
        leakage.leakage(plain[:2], [0, 1, 5])


def test_one_look_of_one_scene_has_more_similar_backgrounds_than_different_scenes():
    alike = set_of(SAME, scenes=["snow"] * 4, look="day")
    different = set_of(SAME)
    similarity = [
        truth.background_similarity([one.image for one in pictures], [true_reading(one) for one in pictures])
        for pictures in (alike, different)
    ]
    assert similarity[0] > 0.6 > similarity[1]


def test_variety_is_none_for_one_place_and_grows_with_displacement():
    reading = readings_of(SAME)[0]
    square = np.zeros((64, 64), bool)
    square[20:40, 10:30] = True
    still = [replace(reading, mask=square)] * 3
    moved = [replace(reading, mask=np.roll(square, shift, axis=1)) for shift in (0, 16)]
    assert truth.layout_variety(still) == truth.pose_variety(still) == 0.0
    assert truth.layout_variety(moved) == pytest.approx(16 / 64)
    assert truth.pose_variety(moved) == pytest.approx(1 - 4 / 36)


def test_pictures_without_a_subject_have_no_place_and_do_not_break_variety():
    empty = replace(readings_of(SAME)[0], mask=np.zeros((64, 64), bool))
    assert truth.placement(empty.mask) is None
    assert truth.layout_variety([empty, empty]) == 0.0


def test_one_picture_alone_and_unknown_names_are_errors_that_say_so():
    readings = readings_of(SAME)
    with pytest.raises(ValueError, match="A set of 1 pictures has no pairs"):
        truth.identity_distance(readings[:1])
    with pytest.raises(ValueError, match="unknown kind 'tram', expected one of bus"):
        truth.kind_accuracy(readings, "tram")
    with pytest.raises(ValueError, match="got 4 pictures and 3 names"):
        truth.scene_accuracy(readings, SCENES[:3])


def test_a_kind_without_a_subject_is_not_right_whatever_the_judge_would_guess():
    seen = readings_of(OTHERS[:2])
    absent = [replace(reading, mask=np.zeros_like(reading.mask)) for reading in seen]
    kind = KINDS[seen[0].kind.argmax()]
    assert truth.kind_accuracy(seen, kind) == 1.0
    assert truth.kind_accuracy([seen[0], absent[1]], kind) == 0.5
    assert truth.kind_accuracy(absent, KINDS[0]) == 0.0
