"""The world draws what it says, the same every time, and tells the truth about it."""

import numpy as np
import pytest

from svdstory.pipeline.miniature.world import (
    ACCESSORY_NAMES,
    ACCESSORY_WORDS,
    HUES,
    KINDS,
    PALETTE,
    SCENE_LOOKS,
    SCENE_NAMES,
    SETTINGS,
    SIZE,
    STYLES,
    Identity,
    View,
    all_captions,
    caption,
    draw_identity,
    draw_view,
    render,
)
from svdstory.pipeline.miniature.world.truth import hue_angle


def view_of(**given) -> View:
    """A plain red bus in the meadow, but for what is given."""
    values = dict(
        kind="bus",
        identity=Identity(0, 225, "plain", 0.5),
        scene="meadow",
        style="A photo of",
        x=0.5,
        foot=0.9,
        scale=0.64,
        scene_seed=3,
        colour_named=False,
        look="summer",
    )
    return View(**{**values, **given})


def test_same_view_gives_the_same_bytes_and_another_seed_another_picture():
    first, again, other = (render(draw_view(np.random.default_rng(seed))) for seed in (5, 5, 6))
    assert np.array_equal(first.image, again.image) and np.array_equal(first.mask, again.mask)
    assert not np.array_equal(first.image, other.image)


def test_drawing_leaves_the_global_generators_alone():
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    render(draw_view(np.random.default_rng(0)))
    assert np.array_equal(before, np.random.get_state()[1])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_fills_enough_of_the_picture_in_every_scene_to_be_seen(kind):
    for number, scene in enumerate(SCENE_NAMES):
        picture = render(draw_view(np.random.default_rng(number), kind=kind, scene=scene, accessory=""))
        assert picture.image.shape == (SIZE, SIZE, 3) and picture.image.dtype == np.uint8
        assert picture.mask.shape == (SIZE, SIZE) and picture.mask.dtype == bool
        assert 0.1 < picture.mask.mean() < 0.5


def test_mask_is_where_the_picture_changes_with_the_identity():
    red, blue = (render(view_of(identity=Identity(hue, 135, "plain", 0.5))) for hue in (0, 225))
    changed = (red.image != blue.image).any(axis=2)
    assert np.array_equal(red.mask, blue.mask)
    assert (changed & ~red.mask).sum() < 0.1 * red.mask.sum()  # the reduced edge alone
    assert changed.sum() > 0.3 * red.mask.sum()


@pytest.mark.parametrize("kind", KINDS)
def test_every_attribute_of_an_identity_shows_in_every_kind(kind):
    base = Identity(0, 225, "plain", 0.2)
    plain = render(view_of(kind=kind, identity=base)).image.astype(int)
    for other in (
        Identity(135, 225, "plain", 0.2),
        Identity(0, 135, "plain", 0.2),
        Identity(0, 225, "striped", 0.2),
        Identity(0, 225, "plain", 0.9),
    ):
        changed = np.abs(render(view_of(kind=kind, identity=other)).image - plain).max(axis=2) > 40
        assert changed.mean() > 0.015, other


def test_captions_read_as_the_prompt_sets_do_and_hide_the_identity():
    assert caption(view_of()) == "A photo of a bus in a meadow"
    drawing = view_of(kind="gift box", scene="sea", look="reef", style="A drawing of")
    assert caption(drawing) == "A drawing of a gift box under the sea"
    assert caption(view_of(colour_named=True)) == "A photo of a red bus in a meadow"
    assert caption(view_of(accessory="hat")) == "A photo of a bus wearing a hat in a meadow"
    assert caption(view_of(accessory="hat", scene_named=False)) == "A photo of a bus wearing a hat"
    assert caption(view_of(look="spring")) == caption(view_of())


def test_all_captions_are_all_that_views_can_say():
    every = set(all_captions())
    drawn = {caption(draw_view(np.random.default_rng(seed))) for seed in range(300)}
    settings = len(SETTINGS) + len(ACCESSORY_WORDS) * (1 + len(SETTINGS))
    assert drawn <= every and len(every) == len(STYLES) * (len(PALETTE) + 1) * len(KINDS) * settings


def test_a_third_of_the_captions_names_an_accessory_alone_and_a_sixth_a_scene_beside_it():
    views = [draw_view(np.random.default_rng(seed)) for seed in range(1500)]
    alone = np.mean([not view.scene_named for view in views])
    both = np.mean([bool(view.accessory) and view.scene_named for view in views])
    assert alone == pytest.approx(1 / 3, abs=0.04) and both == pytest.approx(1 / 6, abs=0.04)
    assert all(view.accessory for view in views if not view.scene_named)


@pytest.mark.parametrize("accessory", ACCESSORY_NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_accessory_is_large_is_where_its_mask_says_and_leaves_the_subject_to_be_seen(kind, accessory):
    bare, worn = (render(view_of(kind=kind, accessory=name)) for name in ("", accessory))
    changed = np.abs(worn.image.astype(int) - bare.image).max(axis=2) > 60
    assert worn.accessory_mask.mean() > 0.04 and not bare.accessory_mask.any()
    assert not (worn.accessory_mask & worn.mask).any() and worn.mask.sum() > 0.5 * bare.mask.sum()
    if accessory != "jumping":  # which moves the subject too
        assert changed.mean() > 0.03 and (changed & ~worn.accessory_mask).sum() < 0.2 * changed.sum()


def test_looks_of_all_scenes_differ_at_a_glance_and_most_from_looks_of_other_scenes():
    means = {
        name: np.mean([render(view_of(scene=name[0], look=name[1], scene_seed=n)).image for n in range(4)], axis=0)
        for name in SCENE_LOOKS
    }
    for one, picture in means.items():
        nearest = min(np.abs(picture - other).mean() for name, other in means.items() if name != one)
        assert nearest > 6, one


def test_what_is_given_stays_and_the_other_draws_do_not_move():
    free, fixed = draw_view(np.random.default_rng(8)), draw_view(np.random.default_rng(8), kind="cat", scene="snow")
    assert (fixed.kind, fixed.scene) == ("cat", "snow")
    assert (fixed.identity, fixed.x, fixed.scene_seed) == (free.identity, free.x, free.scene_seed)


def test_independent_identities_are_a_right_angle_apart_on_average_and_accents_never_near():
    rng = np.random.default_rng(0)
    identities = [draw_identity(rng) for _ in range(400)]
    angles = [hue_angle(one.body_hue, other.body_hue) for one, other in zip(identities, identities[1:])]
    assert 80 < np.mean(angles) < 100
    assert min(hue_angle(one.body_hue, one.accent_hue) for one in identities) == 90
    assert {one.body_hue for one in identities} == set(HUES)


def test_a_hue_a_pattern_or_a_kind_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(ValueError, match=r"body_hue: got 10, expected one of 0, 45"):
        Identity(10, 90, "plain", 0.5)
    with pytest.raises(ValueError, match=r"pattern: got 'dotted', expected one of plain, striped"):
        Identity(0, 90, "dotted", 0.5)
    with pytest.raises(ValueError, match=r"shape: got 1.5, expected 0..1"):
        Identity(0, 90, "plain", 1.5)
    with pytest.raises(ValueError, match=r"View.kind: got 'tram', expected one of bus, gift box"):
        view_of(kind="tram")
    with pytest.raises(ValueError, match=r"View.look: got 'dusk', expected one of summer, evening, spring"):
        view_of(look="dusk")
    with pytest.raises(ValueError, match=r"View.accessory: got 'kite', expected one of , hat, balloon"):
        view_of(accessory="kite")


def test_a_scene_without_its_subject_is_the_same_outside_of_it():
    view = view_of(kind="fish")  # the one kind without a shadow
    whole, bare = render(view), render(view, subject=False)
    assert not bare.mask.any()
    changed = (whole.image != bare.image).any(axis=-1)
    assert 0.8 * whole.mask.sum() < changed.sum() < 1.5 * whole.mask.sum()
