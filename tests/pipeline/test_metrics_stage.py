"""Scoring a run: resumable, only what is stale, and a damaged unit doesn't stop the others."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save

from svdstory.jobs.node.scoring import Scoring, load_unit, score_each, score_units
from svdstory.jobs.study.scores import Shard, read_scores, read_standing, shard_paths
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


KEYS = ["aa1", "ab2", "ac3"]


def scored_by(store, scorer, keys=KEYS, cache=None, **how):
    """Score with one scorer, and publish. Returns the outcome by key."""
    scoring = Scoring(store, read_scores(store.run), Shard(store.run), cache or EmbeddingCache(), **how)
    score_units(scoring, keys, scorer)
    scoring.publish()
    return scoring.outcome


def lines_of(store) -> list[dict]:
    return [json.loads(line) for path in shard_paths(store.run) for line in path.read_text().splitlines()[1:]]


def values_of(store, scorer, key) -> dict:
    return next(line["values"] for line in lines_of(store) if (line["scorer"], line["key"]) == (scorer, key))


def names(pairs) -> list[str]:
    return [key for _, key in pairs]


def test_many_units_share_one_file_with_values_images_and_protocol(store):
    scorer = load_scorer("clipscore:tiny")
    outcome = scored_by(store, scorer)
    assert names(outcome.scored) == KEYS and outcome.complete
    assert len(list((store.run / "scores").iterdir())) == 1
    scores = read_scores(store.run)
    chosen = scores.protocol("clipscore:tiny", KEYS)
    assert scores.protocols[chosen] == scorer.protocol
    assert set(scores.of("clipscore:tiny", "ab2", chosen).values) == {"clipscore"}
    assert len(values_of(store, "clipscore:tiny", "ab2")["clipscore_images"]) == 2


def test_units_that_are_not_finished_are_passed_over(store):
    scoring = Scoring(store, read_scores(store.run), Shard(store.run), EmbeddingCache(), allow_random=True)
    outcome = score_each(scoring, [*KEYS, "not-finished"], ["clipscore:tiny"])
    assert names(outcome.scored) == KEYS and outcome.complete


def test_scoring_again_does_nothing_and_builds_no_network(store):
    scored_by(store, load_scorer("clipscore:tiny"))
    before = shard_paths(store.run)
    again = load_scorer("clipscore:tiny")
    assert names(scored_by(store, again).fresh) == KEYS
    assert "model" not in vars(again.embedder)
    assert shard_paths(store.run) == before


def test_an_interrupted_scoring_goes_on_where_it_was(store):
    scored_by(store, load_scorer("clipscore:tiny"), KEYS[:1])
    (store.run / "scores" / ".local-r0-here-1.abcd.jsonl").write_text(
        '{"schema": 1, "at": 1, "sco'
    )  # what a kill leaves
    outcome = scored_by(store, load_scorer("clipscore:tiny"))
    assert names(outcome.fresh) == ["aa1"] and names(outcome.scored) == ["ab2", "ac3"]


def test_asked_to_stop_it_publishes_what_it_has_and_the_next_turn_does_the_rest(store):
    asked = iter([False, False, True])
    outcome = scored_by(store, load_scorer("clipscore:tiny"), batch=2, stop=lambda: next(asked))
    assert outcome.stopped == "asked to stop" and names(outcome.scored) == ["aa1", "ab2"]
    outcome = scored_by(store, load_scorer("clipscore:tiny"))
    assert names(outcome.fresh) == ["aa1", "ab2"] and names(outcome.scored) == ["ac3"]


def test_of_half_a_shard_the_whole_lines_count_and_the_rest_is_scored_again(store):
    scored_by(store, load_scorer("clipscore:tiny"))
    (path,) = shard_paths(store.run)
    content = path.read_text()
    path.write_text(content[: len(content) - len(content.splitlines()[-1]) // 2])
    outcome = scored_by(store, load_scorer("clipscore:tiny"))
    assert names(outcome.fresh) == ["aa1", "ab2"] and names(outcome.scored) == ["ac3"]


def test_a_shard_whose_first_line_is_damaged_is_as_if_it_had_never_been_written(store):
    scored_by(store, load_scorer("clipscore:tiny"))
    (path,) = shard_paths(store.run)
    path.write_text(path.read_text()[9:])
    assert names(scored_by(store, load_scorer("clipscore:tiny")).scored) == KEYS


def test_scores_of_another_protocol_are_made_again_and_both_are_kept(store):
    scorer, other = load_scorer("clipscore:tiny"), load_scorer("clipscore:tiny")
    other.protocol = other.protocol | {"weights": "real ones"}
    scored_by(store, scorer)
    assert names(scored_by(store, other).scored) == KEYS
    assert names(scored_by(store, scorer).fresh) == names(scored_by(store, other).fresh) == KEYS


def damage(store, key):
    path = store.folder(key) / "1.png"
    content = bytearray(path.read_bytes())
    content[100] ^= 255
    path.write_bytes(content)


def test_a_damaged_image_fails_its_unit_alone(store):
    damage(store, "ab2")
    outcome = scored_by(store, load_scorer("clipscore:tiny"))
    assert names(outcome.scored) == ["aa1", "ac3"]
    assert "1.png: content differs" in outcome.failed["clipscore:tiny", "ab2"]


def test_a_scorer_that_fails_on_one_unit_scores_the_others_of_its_batch(store):
    scorer = load_scorer("clipscore:tiny")
    inner = scorer.score_many
    bad = store.manifest("ab2")["prompts"]

    def score_many(units):
        if any(list(unit.prompts) == bad and "ab2" for unit in units) and len(units) > 1:
            raise torch.OutOfMemoryError("80 GiB")
        return inner(units)

    scorer.score_many = score_many
    assert names(scored_by(store, scorer).scored) == KEYS


def broken(scorer):
    asked = []

    def score_many(units):
        asked.append(len(units))
        raise RuntimeError("this network is broken")

    scorer.score_many = score_many
    return asked


def test_a_broken_scorer_is_recorded_with_its_cause_and_costs_no_image(store):
    for seed in range(3, 9):
        publish(store, f"ad{seed}", seed)
    keys = sorted(store.present())
    scorer = load_scorer("clipscore:tiny")
    asked = broken(scorer)
    outcome = scored_by(store, scorer, keys)
    assert set(outcome.failed.values()) == {"bug: RuntimeError: this network is broken"} and len(outcome.failed) == 9
    assert asked == [9, 1, 1, 1]  # given up after three
    assert all(store.is_finished(key) for key in keys)
    assert set(read_standing(store.run).failed["clipscore:tiny"]) == set(keys)


def test_a_bad_card_ends_the_scoring_and_blames_no_unit(store):
    scorer = load_scorer("clipscore:tiny")

    def score_many(units):
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")

    scorer.score_many = score_many
    outcome = scored_by(store, scorer)
    assert outcome.stopped.startswith("bad node") and not outcome.failed


def test_small_and_large_batches_store_the_same_numbers(store):
    values = []
    for images_at_once in (1, 64):
        scored_by(store, load_scorer("clip-i:tiny"), batch=images_at_once)
        values.append([values_of(store, "clip-i:tiny", key) for key in KEYS])
        for path in shard_paths(store.run):
            path.unlink()
    for one, many in zip(*values, strict=True):
        assert one.keys() == many.keys() == {"clip_i", "clip_i_pairs", "clip_i_subject", "clip_i_subject_pairs"}
        np.testing.assert_allclose(one["clip_i_subject"], many["clip_i_subject"], atol=1e-5)


def test_clipscore_and_clip_i_share_the_embeddings_of_whole_images(store):
    cache = EmbeddingCache(store.run / "scores" / "embeddings")
    scored_by(store, load_scorer("clipscore:tiny", cache=cache), cache=cache)
    scorer = load_scorer("clip-i:tiny", cache=EmbeddingCache(store.run / "scores" / "embeddings"))
    seen = []
    inner = scorer.embedder.embed
    scorer.embedder.embed = lambda images: seen.append(len(images)) or inner(images)
    scored_by(store, scorer)
    assert sum(seen) == 6  # the subjects of six images; the whole images were there
    assert len(list((store.run / "scores" / "embeddings").iterdir())) == 1


def test_scorers_that_share_a_network_load_it_once():
    networks = {}
    one, other = (load_scorer(name, networks=networks) for name in ("clipscore:tiny", "background:tiny"))
    assert one.embedder is other.embedder


def test_a_network_that_gives_nan_leaves_no_score(store):
    scorer = load_scorer("clip-i:tiny")
    scorer.embedder.embed = lambda images: np.full((len(images), 4), np.nan, np.float32)
    outcome = scored_by(store, scorer, KEYS[:1])
    assert "not finite" in outcome.failed["clip-i:tiny", "aa1"] and not lines_of(store)


def test_masks_and_prompts_come_with_the_unit(store):
    unit = load_unit(store, "aa1", store.manifest("aa1"))
    assert unit.masks.dtype == bool and unit.masks.shape == (2, 8, 8) and unit.masks.sum() == 32
    assert unit.subject == "a bus" and list(unit.prompts) == ["a bus 0", "a bus 1"]


def test_units_without_masks_have_no_background_number(tmp_path):
    store = Store(tmp_path)
    publish(store, "aa1", 0, masks=False)
    scored_by(store, load_scorer("background:tiny"), ["aa1"])
    assert values_of(store, "background:tiny", "aa1") == {}


def test_scoring_leaves_the_global_generator_alone(store):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    scored_by(store, load_scorer("background:tiny"))
    assert torch.rand(1) == expected


def test_networks_run_without_tf32_and_the_setting_is_put_back():
    before = torch.backends.cudnn.allow_tf32
    with full_precision():
        assert not torch.backends.cudnn.allow_tf32 and torch.is_inference_mode_enabled()
    assert torch.backends.cudnn.allow_tf32 == before and not torch.is_inference_mode_enabled()


def test_a_scorer_that_is_not_staged_is_left_out_and_recorded_and_the_next_one_measures(store, tmp_path):
    scoring = Scoring(store, read_scores(store.run), Shard(store.run), EmbeddingCache(), weights=tmp_path / "none")
    outcome = score_each(scoring, KEYS, ["dreamsim", "clipscore:tiny"])
    assert outcome.left_out == ["dreamsim"] and names(outcome.scored) == KEYS
    assert read_standing(store.run).failed == {"dreamsim": dict.fromkeys(KEYS, "weights missing")}


def test_an_unknown_scorer_is_an_error_before_any_other_measures(store):
    scoring = Scoring(store, read_scores(store.run), Shard(store.run), EmbeddingCache())
    with pytest.raises(InputError, match="unknown scorer 'clipscor'"):
        score_each(scoring, KEYS, ["clipscore:tiny", "clipscor"])
    assert not shard_paths(store.run)


def test_a_full_disk_ends_the_scoring_with_its_cause(store, monkeypatch):
    def full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Shard, "publish", full)
    assert scored_by(store, load_scorer("clipscore:tiny")).stopped == "disk full"
