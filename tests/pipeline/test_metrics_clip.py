"""CLIPScore and CLIP-I against open_clip's own functions on the same random weights."""

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.metrics import staging
from svdstory.pipeline.metrics.cache import EmbeddingCache
from svdstory.pipeline.metrics.clip_embedder import ARCHITECTURE
from svdstory.pipeline.metrics.consistency import Consistency
from svdstory.pipeline.metrics.random_weights import fill_randomly
from svdstory.pipeline.metrics.registry import load_scorer
from svdstory.pipeline.metrics.scorer import RANDOM, UnitImages

PROMPTS = ["A photo of a blue bus in the desert", "A photo of a blue bus driving down the street"]


def pictures(count, size=(160, 96), seed=0):
    """Smooth random pictures: noise of a few pixels, enlarged."""
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size) for _ in range(count)]


@pytest.fixture(scope="session")
def library():
    """open_clip's own way: model (random weights of the true architecture), preprocessing and tokenizer."""
    model, _, preprocess = open_clip.create_model_and_transforms(ARCHITECTURE, load_weights=False)
    fill_randomly(model, seed=7)
    return model.eval(), preprocess, open_clip.get_tokenizer(ARCHITECTURE)


@pytest.fixture(scope="session")
def clip_folder(library, tmp_path_factory):
    """A weights folder as `prefetch` leaves it, with the same weights."""
    path = tmp_path_factory.mktemp("weights") / staging.CLIP_FILES[0].path
    path.parent.mkdir(parents=True)
    save_file(library[0].state_dict(), path)
    return path.parents[2]


@pytest.fixture(scope="session")
def clipscore(clip_folder):
    return load_scorer("clipscore", folder=clip_folder)


def test_clipscore_from_staged_weights_equals_open_clips_own_encode(clipscore, library):
    model, preprocess, tokenize = library
    images = pictures(2)
    with torch.no_grad():
        x = model.encode_image(torch.stack([preprocess(image) for image in images]))
        t = model.encode_text(tokenize(["A photo depicts " + prompt for prompt in PROMPTS]))
        expected = 2.5 * torch.nn.functional.cosine_similarity(x, t).clamp(min=0)
    values = clipscore.score(UnitImages(images, PROMPTS, "a blue bus"))
    np.testing.assert_allclose(values["clipscore_images"], expected, atol=1e-5)
    assert values["clipscore"] == pytest.approx(expected.mean().item(), abs=1e-5)


def test_clip_i_is_the_mean_cosine_of_all_pairs(clipscore, library):
    model, preprocess, _ = library
    images = pictures(3)
    with torch.no_grad():
        x = model.encode_image(torch.stack([preprocess(image) for image in images]))
        expected = [torch.cosine_similarity(x[i], x[j], dim=0).item() for i, j in ((0, 1), (0, 2), (1, 2))]
    scorer = Consistency("clip-i", clipscore.embedder, EmbeddingCache(), "noise")
    values = scorer.score(UnitImages(images, ["p"] * 3, "s"))
    np.testing.assert_allclose(values["clip_i_pairs"], expected, atol=1e-5)
    assert values["clip_i"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert "clip_i_subject" not in values  # no masks were stored


def test_negative_cosines_count_as_zero():
    scorer = load_scorer("clipscore:tiny")
    vector = scorer.embedder.embed_texts(["A photo depicts x"])
    scorer.embedder.embed = lambda images: -vector.repeat(len(images), 0)
    assert scorer.score(UnitImages(pictures(1), ["x"], "s")) == {"clipscore": 0.0, "clipscore_images": [0.0]}


def test_protocol_names_the_sha256_of_staged_weights(clipscore, clip_folder):
    import hashlib

    sha = hashlib.sha256((clip_folder / staging.CLIP_FILES[0].path).read_bytes()).hexdigest()
    assert clipscore.protocol["weights"] == sha
    assert "open_clip_torch" in clipscore.protocol["library"]


def test_random_weights_are_refused_unless_allowed_and_then_marked(tmp_path):
    with pytest.raises(InputError) as error:
        load_scorer("clipscore", folder=tmp_path)
    assert str(tmp_path / staging.CLIP_FILES[0].path) in str(error.value)
    assert "svdstory prefetch --scorer clipscore" in str(error.value)
    assert load_scorer("clipscore:tiny").protocol["weights"] == RANDOM


def test_an_unknown_scorer_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="did you mean 'clipscore'"):
        load_scorer("clipscor")


def test_the_miniature_tells_images_and_prompts_apart_and_is_the_same_each_time():
    unit = UnitImages(pictures(3), ["a red fox", "a blue bus", "a doctor at the cafe"], "s")
    values = load_scorer("clipscore:tiny").score(unit)
    assert values == load_scorer("clipscore:tiny").score(unit)
    assert load_scorer("clip-i:tiny").score(unit)["clip_i"] < 0.999


def test_building_a_scorer_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_scorer("clipscore:tiny")
    assert torch.rand(1) == expected


def test_batching_over_units_gives_the_same_numbers_as_one_by_one():
    units = [UnitImages(pictures(2, seed=s), PROMPTS, "s") for s in range(3)]
    together = load_scorer("clipscore:tiny", batch=4).score_many(units)
    for unit, values in zip(units, together):
        np.testing.assert_allclose(
            values["clipscore_images"], load_scorer("clipscore:tiny").score(unit)["clipscore_images"], atol=1e-5
        )
