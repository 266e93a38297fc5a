"""Views, consistency of subjects, background leakage and layout, on cases whose answer is known."""

import numpy as np
import pytest
from PIL import Image

from svdstory.pipeline.metrics.background import Background
from svdstory.pipeline.metrics.cache import EmbeddingCache
from svdstory.pipeline.metrics.consistency import Consistency, pairwise_cosines
from svdstory.pipeline.metrics.dino import GRID
from svdstory.pipeline.metrics.layout import displacement, token_masks
from svdstory.pipeline.metrics.regions import background_only, filled, subject_only, upsampled, whole
from svdstory.pipeline.metrics.registry import load_scorer
from svdstory.pipeline.metrics.scorer import UnitImages

LEFT = np.repeat([[True] * 8 + [False] * 8], 16, axis=0)  # 16 × 16 cells, subject on the left


class MeanColour:
    """An embedder whose answer can be computed by hand: mean red, green and blue of the left and the right half."""

    name, protocol = "mean colour", {"embedder": "mean colour"}

    def __init__(self):
        self.seen = 0

    def embed(self, images):
        self.seen += len(images)
        pixels = np.stack([np.asarray(image, dtype=np.float32) for image in images])  # B H W 3
        half = pixels.shape[2] // 2
        return np.concatenate([pixels[:, :, :half].mean((1, 2)), pixels[:, :, half:].mean((1, 2))], axis=1)


def halves(left, right, size=64):
    """A picture of two colours."""
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[:, : size // 2], pixels[:, size // 2 :] = left, right
    return Image.fromarray(pixels)


RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


def two_subjects_on_one_background():
    return UnitImages([halves(RED, BLUE), halves(GREEN, BLUE)], ["p", "p"], "s", np.stack([LEFT, LEFT]))


def test_filled_keeps_the_kept_pixels_and_nothing_else():
    image, keep = halves(RED, BLUE), upsampled(LEFT, (64, 64))
    for fill in ("noise", "flat"):
        pixels = np.asarray(filled(image, keep, fill, "ab" * 32))
        assert (pixels[:, :32] == RED).all() and not (pixels[:, 32:] == BLUE).all(axis=-1).any()


def test_noise_is_seeded_by_the_image():
    keep = upsampled(LEFT, (64, 64))
    once, again, other = (filled(halves(RED, BLUE), keep, "noise", seed * 32) for seed in ("ab", "ab", "cd"))
    assert once.tobytes() == again.tobytes() != other.tobytes()


def test_the_subject_view_sees_different_subjects_and_the_background_view_one_place():
    unit = two_subjects_on_one_background()
    consistency = Consistency("clip-i", MeanColour(), EmbeddingCache(), "flat").score(unit)
    background = Background("background", MeanColour(), EmbeddingCache(), "flat").score(unit)
    assert background["background"] == pytest.approx(1)
    # subjects orthogonal, grey 128 in the other half: cos = 3 * 128^2 / (200^2 + 3 * 128^2)
    assert consistency["clip_i_subject"] == pytest.approx(3 * 128**2 / (200**2 + 3 * 128**2), abs=1e-6)
    assert consistency["clip_i"] == pytest.approx(0.5, abs=1e-6)  # blue halves alike, the others orthogonal


@pytest.mark.parametrize("masks", [None, np.zeros((2, 16, 16), bool), np.ones((2, 16, 16), bool)])
def test_without_usable_masks_the_masked_numbers_are_absent_not_zero(masks):
    unit = UnitImages([halves(RED, BLUE)] * 2, ["p", "p"], "s", masks)
    assert subject_only(unit, "flat") is None and background_only(unit, "flat") is None
    assert Background("background", MeanColour(), EmbeddingCache(), "flat").score(unit) == {}
    assert set(Consistency("clip-i", MeanColour(), EmbeddingCache(), "flat").score(unit)) == {"clip_i", "clip_i_pairs"}


def test_a_single_image_has_no_pairs_and_no_number():
    unit = UnitImages([halves(RED, BLUE)], ["p"], "s", LEFT[None])
    assert Consistency("dreamsim", MeanColour(), EmbeddingCache(), "flat").score(unit) == {}


def test_dreamsim_is_one_minus_the_cosine():
    unit = two_subjects_on_one_background()
    assert Consistency("dreamsim", MeanColour(), EmbeddingCache(), "flat").score(unit)["dreamsim"] == pytest.approx(0.5)


def test_pairwise_cosines_go_over_every_pair_once():
    vectors = np.array([[1, 0], [0, 2], [3, 3]], np.float32)
    np.testing.assert_allclose(pairwise_cosines(vectors), [0, 0.5**0.5, 0.5**0.5])


def test_each_image_is_embedded_once_and_the_cache_outlives_the_process(tmp_path):
    unit, embedder = two_subjects_on_one_background(), MeanColour()
    cache = EmbeddingCache(tmp_path)
    first = Consistency("clip-i", embedder, cache, "flat").score(unit)
    assert embedder.seen == 4  # two images, whole and masked
    Consistency("dreamsim", embedder, cache, "flat").score(unit)
    assert embedder.seen == 4
    cache.flush()
    again = MeanColour()
    assert Consistency("clip-i", again, EmbeddingCache(tmp_path), "flat").score(unit) == first
    assert again.seen == 0


def test_a_damaged_cache_shard_costs_time_only(tmp_path):
    cache = EmbeddingCache(tmp_path)
    Consistency("clip-i", MeanColour(), cache, "flat").score(two_subjects_on_one_background())
    cache.flush()
    shard = next(tmp_path.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:200])
    again = MeanColour()
    Consistency("clip-i", again, EmbeddingCache(tmp_path), "flat").score(two_subjects_on_one_background())
    assert again.seen == 4


def test_another_fill_is_another_protocol_and_another_cache_key():
    cache, embedder, unit = EmbeddingCache(), MeanColour(), two_subjects_on_one_background()
    noise, flat = (Background("background", embedder, cache, fill) for fill in ("noise", "flat"))
    noise.score(unit), flat.score(unit)
    assert embedder.seen == 4 and noise.protocol != flat.protocol


def orthogonal_tokens():
    """T tokens that each match themselves alone."""
    return np.eye(GRID * GRID, dtype=np.float32)


def test_tokens_in_the_same_place_are_displaced_by_zero():
    everything = np.ones(GRID * GRID, bool)
    assert displacement(orthogonal_tokens(), orthogonal_tokens(), everything, everything) == 0


def test_a_picture_shifted_by_three_cells_is_displaced_by_three_cells():
    tokens = orthogonal_tokens().reshape(GRID, GRID, -1)
    shifted = np.roll(tokens, 3, axis=1).reshape(GRID * GRID, -1)
    stays = np.zeros((GRID, GRID), bool)
    stays[:, : GRID - 3] = True  # what is not wrapped around
    everything = np.ones(GRID * GRID, bool)
    assert displacement(tokens.reshape(GRID * GRID, -1), shifted, stays.ravel(), everything) == pytest.approx(3 / GRID)


def test_token_masks_take_cells_that_are_mostly_subject():
    masks = token_masks(LEFT[None])
    assert masks.shape == (1, GRID * GRID)
    assert masks.reshape(GRID, GRID)[:, :7].all() and not masks.reshape(GRID, GRID)[:, 7:].any()


def test_the_layout_miniature_gives_zero_for_equal_pictures_and_more_for_different_ones():
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)).resize((96, 96), 0) for _ in range(2)]
    scorer = load_scorer("layout:tiny")
    assert scorer.score(UnitImages([noise[0]] * 2, ["p"] * 2, "s"))["layout"] == 0
    values = scorer.score(UnitImages(noise, ["p"] * 2, "s", np.stack([LEFT, LEFT])))
    assert values["layout"] > 0 and values["layout_subject"] <= 2**0.5 / 2 + 0.5


def test_a_cache_on_disk_is_read_by_key_and_holds_no_vectors_in_memory(tmp_path):
    cache = EmbeddingCache(tmp_path)
    units = [UnitImages([halves((i, 0, 0), (0, i, 0))], ["p"], "s") for i in range(1, 40)]
    first = cache.embed(MeanColour(), [whole(unit) for unit in units])
    cache.flush()
    again, embedder = EmbeddingCache(tmp_path), MeanColour()
    for unit, vectors in zip(units, first, strict=True):
        np.testing.assert_array_equal(again.embed(embedder, [whole(unit)])[0], vectors)
    assert embedder.seen == 0 and not again._unsaved
    assert sum(shelf.keys.nbytes for shelf in again._shelves) == 24 * len(units)


def test_vectors_of_two_widths_share_a_shard(tmp_path):
    class Wide(MeanColour):
        protocol = {"embedder": "wide"}

        def embed(self, images):
            return np.pad(super().embed(images), ((0, 0), (0, 5)))

    cache, view = EmbeddingCache(tmp_path), [whole(two_subjects_on_one_background())]
    expected = [cache.embed(embedder, view)[0] for embedder in (MeanColour(), Wide())]
    cache.flush()
    assert len(list(tmp_path.iterdir())) == 1
    again = EmbeddingCache(tmp_path)
    for embedder, vectors in zip((MeanColour(), Wide()), expected, strict=True):
        np.testing.assert_array_equal(again.embed(embedder, view)[0], vectors)
        assert embedder.seen == 0
