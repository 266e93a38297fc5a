"""Scoring a run: resumable, only what is stale, and a damaged unit doesn't stop the others."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save

from svdstory.jobs.node.scoring import load_unit, score_units, score_with_each
from svdstory.jobs.study.scores import read_score, score_path
from svdstory.jobs.study.store import Attempt, Store
from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.metrics.cache import EmbeddingCache
from svdstory.pipeline.metrics.precision import full_precision
from svdstory.pipeline.metrics.registry import load_scorer


def publish(store, key, seed, images=2, masks=True):
    """A finished unit as the worker publishes it."""
    rng = np.random.default_rng(seed)
    files = {}
    for i in range(images):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "PNG")
        files[f"{i}.png"] = buffer.getvalue()
    if masks:
        square = np.zeros((images, 8, 8), np.uint8)
        square[:, 2:6, 2:6] = 1
        files["tensors.safetensors"] = save({"masks": square})
    manifest = {
        "set": {"name": "s", "subject": "a bus"},
        "prompts": [f"a bus {i}" for i in range(images)],
        "images": images,
    }
    store.publish(key, files, manifest, Attempt.here())


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    for seed, key in enumerate(("aa1", "ab2", "ac3")):
        publish(store, key, seed)
    return store


KEYS = ["aa1", "ab2", "ac3", "not-finished"]


def test_every_finished_unit_gets_one_file_with_values_hashes_and_protocol(store):
    scorer = load_scorer("clipscore:tiny")
    outcome = score_units(store, KEYS, scorer)
    assert outcome.scored == KEYS[:3] and not outcome.failed
    record = read_score(store.run, "clipscore:tiny", "ab2")
    assert record["protocol"] == scorer.protocol and len(record["values"]["clipscore_images"]) == 2
    assert record["images"] == {f"{i}.png": store.manifest("ab2")["files"][f"{i}.png"]["sha256"] for i in range(2)}


def test_scoring_again_does_nothing_and_builds_no_network(store):
    score_units(store, KEYS, load_scorer("clipscore:tiny"))
    before = score_path(store.run, "clipscore:tiny", "aa1").stat().st_mtime_ns
    again = load_scorer("clipscore:tiny")
    assert score_units(store, KEYS, again).fresh == KEYS[:3]
    assert "model" not in vars(again.embedder)
    assert score_path(store.run, "clipscore:tiny", "aa1").stat().st_mtime_ns == before


def test_an_interrupted_scoring_goes_on_where_it_was(store):
    score_units(store, KEYS[:1], load_scorer("clipscore:tiny"))
    (store.run / "scores" / "clipscore-tiny" / ".ab2.here.1").write_text("{")  # what a kill leaves
    outcome = score_units(store, KEYS, load_scorer("clipscore:tiny"))
    assert outcome.fresh == ["aa1"] and outcome.scored == ["ab2", "ac3"]


def test_scores_of_another_protocol_or_half_a_file_are_made_again(store):
    score_units(store, KEYS, load_scorer("clipscore:tiny"))
    path = score_path(store.run, "clipscore:tiny", "aa1")
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"protocol_hash": "of real weights"}))
    half = score_path(store.run, "clipscore:tiny", "ab2")
    half.write_text(half.read_text()[:40])
    assert score_units(store, KEYS, load_scorer("clipscore:tiny")).scored == ["aa1", "ab2"]
    assert json.loads(path.read_text()) == record


def test_a_damaged_image_fails_its_unit_alone(store):
    path = store.folder("ab2") / "1.png"
    content = bytearray(path.read_bytes())
    content[100] ^= 255
    path.write_bytes(content)
    outcome = score_units(store, KEYS, load_scorer("clipscore:tiny"))
    assert outcome.scored == ["aa1", "ac3"] and "1.png: content differs" in outcome.failed["ab2"]


def test_small_and_large_batches_store_the_same_numbers(store):
    values = []
    for images_at_once in (1, 64):
        score_units(store, KEYS, load_scorer("clip-i:tiny"), images_at_once)
        values.append([read_score(store.run, "clip-i:tiny", key)["values"] for key in KEYS[:3]])
        for key in KEYS[:3]:
            score_path(store.run, "clip-i:tiny", key).unlink()
    for one, many in zip(*values, strict=True):
        assert one.keys() == many.keys() == {"clip_i", "clip_i_pairs", "clip_i_subject", "clip_i_subject_pairs"}
        np.testing.assert_allclose(one["clip_i_subject"], many["clip_i_subject"], atol=1e-5)


def test_clipscore_and_clip_i_share_the_embeddings_of_whole_images(store):
    cache = EmbeddingCache(store.run / "scores" / "embeddings")
    score_units(store, KEYS, load_scorer("clipscore:tiny", cache=cache))
    cache.flush()
    scorer = load_scorer("clip-i:tiny", cache=EmbeddingCache(store.run / "scores" / "embeddings"))
    seen = []
    inner = scorer.embedder.embed
    scorer.embedder.embed = lambda images: seen.append(len(images)) or inner(images)
    score_units(store, KEYS, scorer)
    assert sum(seen) == 6  # the subjects of six images; the whole images were there
    assert len(list((store.run / "scores" / "embeddings").iterdir())) == 1


def test_a_network_that_gives_nan_leaves_no_score(store):
    scorer = load_scorer("clip-i:tiny")
    scorer.embedder.embed = lambda images: np.full((len(images), 4), np.nan, np.float32)
    outcome = score_units(store, KEYS[:1], scorer)
    assert "not finite" in outcome.failed["aa1"] and read_score(store.run, "clip-i:tiny", "aa1") is None


def test_masks_and_prompts_come_with_the_unit(store):
    unit = load_unit(store, "aa1", store.manifest("aa1"))
    assert unit.masks.dtype == bool and unit.masks.shape == (2, 8, 8) and unit.masks.sum() == 32
    assert unit.subject == "a bus" and list(unit.prompts) == ["a bus 0", "a bus 1"]


def test_units_without_masks_have_no_background_number(tmp_path):
    store = Store(tmp_path)
    publish(store, "aa1", 0, masks=False)
    score_units(store, ["aa1"], load_scorer("background:tiny"))
    assert read_score(tmp_path, "background:tiny", "aa1")["values"] == {}


def test_scoring_leaves_the_global_generator_alone(store):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    score_units(store, KEYS, load_scorer("background:tiny"))
    assert torch.rand(1) == expected


def test_networks_run_without_tf32_and_the_setting_is_put_back():
    before = torch.backends.cudnn.allow_tf32
    with full_precision():
        assert not torch.backends.cudnn.allow_tf32 and torch.is_inference_mode_enabled()
    assert torch.backends.cudnn.allow_tf32 == before and not torch.is_inference_mode_enabled()


def test_a_scorer_that_is_not_staged_is_left_out_and_counted_and_the_next_one_measures(store):
    said, asked = [], []

    def score(name):
        asked.append(name)
        if name == "dreamsim":
            raise InputError("its weights are missing")
        return 2

    assert score_with_each(["dreamsim", "clipscore:tiny"], score, said.append) == 3
    assert asked == ["dreamsim", "clipscore:tiny"] and said == ["dreamsim is left out: its weights are missing"]


def test_an_unknown_scorer_is_an_error_before_any_other_measures():
    with pytest.raises(InputError, match="unknown scorer 'clipscor'"):
        score_with_each(["clipscore:tiny", "clipscor"], lambda name: 1 / 0, print)
