"""Tuned subjects as artefacts: made once, shared by units, resumed, and kept together."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from svdstory.jobs.cluster.clean import litter, remove
from svdstory.jobs.node import subject_making
from svdstory.jobs.node.worker import work
from svdstory.jobs.study.experiment import Experiment
from svdstory.jobs.study.merge import merge
from svdstory.jobs.study.notes import notes
from svdstory.jobs.study.plan import make_plan, read_plan, write_plan
from svdstory.jobs.study.run_folder import subjects_bytes
from svdstory.jobs.study.store import Attempt, Store
from svdstory.jobs.study.tuned import SHELF, dealt, sliced, together
from svdstory.pipeline.config.strict import InputError, parse
from svdstory.pipeline.decoding import NotFinite
from svdstory.pipeline.models.load import load_model

FOX = "style: A photo of\nsubject: a red fox\nconcept: fox\nsettings: [in the snow, at the beach]\n"
SHOWN = FOX + "references: [{image: 0.png, setting: in a meadow}, {image: 1.png}, 2.png]\n"
LORA = {"kind": "dreambooth-lora", "updates": 2, "pictures": 1}
ROWS = [{"name": "mine", "base": "sdxl", "set": {"tuning": {"kind": "textual-inversion", "updates": 2, "pictures": 1}}}]


def plan_of(folder, text=SHOWN, **experiment):
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "fox.yaml").write_text(text)
    named = [{"name": "mine", "base": "sdxl", "set": {"tuning": LORA}}]
    content = {"sets": ["fox.yaml"], "methods": named, "model": "tiny", "steps": 2, "size": [64, 64], **experiment}
    plan = make_plan("test", parse(Experiment, content, "test"), folder)
    write_plan(plan, folder / "run")
    return plan, Store(folder / "run")


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny", device="cpu")


BOTH = [
    {"name": "mine", "base": "sdxl", "set": {"tuning": LORA}},
    {"name": "mine-too", "base": "consistory", "set": {"tuning": LORA}},
    "sdxl",
]


def test_one_subject_serves_the_seeds_and_methods_that_tune_alike_and_plain_units_stay_plain(tmp_path, tiny):
    plan, store = plan_of(tmp_path, methods=BOTH, seeds=[0, 1])
    alone, other = plan_of(tmp_path, methods=["sdxl"], seeds=[0])
    assert len(set(plan.subject_of.values())) == 1 and len(plan.subject_of) == 4
    assert set(alone.units) < set(plan.units)
    work(alone, other, alone.units, model=tiny)
    [plain] = alone.units
    pixels = (store.folder(plain) / "0.png").read_bytes()
    (store.folder(plain) / "manifest.json").unlink()
    done = work(plan, store, plan.units, model=tiny)
    assert not done.failed and len(done.made) == 6
    assert (store.folder(plain) / "0.png").read_bytes() == pixels
    [subject] = Store(store.run, SHELF).present()
    made = store.manifest(next(iter(plan.subject_of)))
    assert made["subject"] == subject and "sks fox" in made["prompts_encoded"][0] and "sks" not in made["prompts"][0]
    told = Store(store.run, SHELF).manifest(subject)
    assert made["subject_sha256"] == {n: f["sha256"] for n, f in told["files"].items() if n.endswith("safetensors")}
    assert told["prompts"][0] == "A photo of a red sks fox in a meadow" and len(told["losses"]) == 2
    assert not list((store.run / "tmp").iterdir()) and not (store.run / "tuning").exists()


def test_a_set_without_pictures_has_a_subject_of_each_seed_learned_from_anchors(tmp_path, tiny):
    recipe = {"kind": "textual-inversion", "updates": 1, "pictures": 1, "anchor_images": 2}
    methods = [{"name": "mine", "base": "sdxl", "set": {"tuning": recipe}}]
    plan, store = plan_of(tmp_path, FOX + "anchor_settings: [in a wood]\n", methods=methods, seeds=[0, 1])
    assert len(set(plan.subject_of.values())) == 2
    first = next(iter(plan.units))
    assert not work(plan, store, [first], model=tiny).failed
    told = Store(store.run, SHELF).manifest(plan.subject_of[first])
    assert told["prompts"] == ["A photo of a red <subject> in a wood"] * 2 and told["pictures"] == "drawn as anchors"


def test_a_tuning_that_was_stopped_goes_on_to_the_same_weights(tmp_path, tiny):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (plan, whole), (_, parted) = (plan_of(tmp_path / name, methods=ROWS) for name in "ab")
    work(plan, whole, plan.units, model=tiny)
    asked = iter([False, True])
    assert work(plan, parted, plan.units, model=tiny, stop=lambda: next(asked, True)).stopped == "asked to stop"
    [subject] = set(plan.subject_of.values())
    state = parted.run / "tuning" / subject / "000001.safetensors"
    assert state.exists()
    (state.parent / "000009.safetensors").write_bytes(b"cut")
    assert not work(plan, parted, plan.units, model=tiny).failed
    one, other = (Store(store.run, SHELF).manifest(subject) for store in (whole, parted))
    assert other["resumed_at"] == 1 and not state.parent.exists()
    weights = "learned_embeds.safetensors"
    assert one["files"][weights]["sha256"] == other["files"][weights]["sha256"] and one["losses"] == other["losses"]


def test_of_two_makers_of_one_subject_the_second_discards_its_own(tmp_path, tiny, monkeypatch):
    plan, store = plan_of(tmp_path, methods=ROWS)
    made, tune = [], subject_making.tune

    def meanwhile(*args, **named):
        if not made:
            made.append("another")
            assert not work(plan, store, plan.units, model=tiny).failed
        return tune(*args, **named)

    monkeypatch.setattr(subject_making, "tune", meanwhile)
    [subject] = set(plan.subject_of.values())
    assert not work(plan, store, plan.units, model=tiny).failed
    shelf = Store(store.run, SHELF)
    assert shelf.present() == {subject} and shelf.problem(subject, deep=True) is None
    assert not list((store.run / "tmp").iterdir()) and not (store.run / "tuning" / subject).exists()


def test_a_subject_that_fails_is_told_of_by_its_units_and_not_tried_again(tmp_path, tiny, monkeypatch):
    plan, store = plan_of(tmp_path, seeds=[0, 1])
    tried = []

    def tune(*_, **__):
        tried.append(1)
        raise NotFinite("the loss is nan")

    monkeypatch.setattr(subject_making, "tune", tune)
    done = work(plan, store, plan.units, model=tiny)
    assert set(done.failed.values()) == {"subject failed: not finite"} and len(tried) == 1
    [subject] = set(plan.subject_of.values())
    assert store.failures()[subject][0].cause == "not finite"


def test_keys_know_the_pictures_the_recipe_and_the_words_and_not_where_files_lie(tmp_path):
    plan, _ = plan_of(tmp_path)
    (tmp_path / "moved").mkdir()
    assert plan_of(tmp_path / "moved")[0].units.keys() == plan.units.keys()
    assert read_plan(next((tmp_path / "run" / "plans").glob("*.json"))).subject_of == plan.subject_of
    others = [
        plan_of(tmp_path, SHOWN.replace("in a meadow", "in a wood")),
        plan_of(tmp_path, SHOWN.replace(", 2.png", "")),
        plan_of(tmp_path, methods=[{"name": "mine", "base": "sdxl", "set": {"tuning": {**LORA, "rank": 1}}}]),
    ]
    assert len({next(iter(one.units)) for one, _ in [(plan, _), *others]}) == 4
    assert not [line for line in notes(plan) if "reference pictures are not for" in line]
    assert any("fewer than 3 pictures" in line for line in notes(others[1][0]))


def test_units_of_one_subject_stay_in_one_share_and_others_are_shared_as_before():
    keys = [f"{i}" for i in range(10)]
    assert sliced(together(keys, {}), 3) == [keys[0:3], keys[3:6], keys[6:10]]
    assert dealt(together(keys, {}), 3) == [keys[0::3], keys[1::3], keys[2::3]]
    subjects = {"0": "a", "7": "a", "8": "b", "9": "b"}
    for parts in (sliced(together(keys, subjects), 4), dealt(together(keys, subjects), 4)):
        assert sorted(key for part in parts for key in part) == keys
        assert all(any({"0", "7"} <= set(p) for p in parts) and any({"8", "9"} <= set(p) for p in parts) for _ in "x")


def test_a_file_that_a_user_brings_is_a_method_known_by_its_content(tmp_path, tiny):
    brought = {"file": "toy.safetensors", "word": "<toy>"}
    methods = [{"name": "toy", "base": "sdxl", "set": {"tuning": brought}}]
    save_file({"clip_l": torch.randn(2, 32), "clip_g": torch.randn(2, 32)}, tmp_path / "toy.safetensors")
    plan, store = plan_of(tmp_path, FOX, methods=methods)
    assert not work(plan, store, plan.units, model=tiny).failed and not plan.subject_of
    [key] = plan.units
    assert store.manifest(key)["prompts_encoded"][0] == "A photo of a red <toy> in the snow"
    (tmp_path / "toy.safetensors").rename(tmp_path / "same.safetensors")
    renamed = [{"name": "toy", "base": "sdxl", "set": {"tuning": [{**brought, "file": "same.safetensors"}]}}]
    again, _ = plan_of(tmp_path, FOX, methods=renamed)
    assert list(again.units) == [key] and again.hash() == plan.hash()
    save_file({"clip_l": torch.zeros(2, 32), "clip_g": torch.zeros(2, 32)}, tmp_path / "same.safetensors")
    (store.folder(key) / "manifest.json").unlink()
    assert set(work(again, store, [key], model=tiny).failed.values()) == {"bug"}
    assert "changed since the plan" in store.failures()[key][-1].message


def test_clean_removes_states_of_subjects_that_are_finished_alone(tmp_path):
    plan, store = plan_of(tmp_path)
    [subject] = set(plan.subject_of.values())
    for key in (subject, "b" * 24):
        (store.run / "tuning" / key).mkdir(parents=True)
    assert subjects_bytes(plan, store.run) > 0
    Store(store.run, SHELF).publish(subject, {}, {}, Attempt.here())
    assert subjects_bytes(plan, store.run) == 0
    remove(litter(store.run))
    assert [path.name for path in (store.run / "tuning").iterdir()] == ["b" * 24]


@pytest.mark.parametrize(
    "text, tuning, message",
    [
        (SHOWN, {**LORA, "vectors": 2}, "vectors would do nothing: it belongs to textual-inversion"),
        (SHOWN, {**LORA, "prior_weight": 1.0}, "one does nothing without the other"),
        (
            SHOWN,
            {**LORA, "word": "red"},
            "the word 'red' stands in the prompt 'A photo of a red fox in the snow' already",
        ),
        (SHOWN, {**LORA, "word": "two words"}, "expected a single word"),
        (SHOWN, {"kind": "textual-inversion", "word": "<Cat>"}, "Write '<cat>'"),
        (SHOWN, {"kind": "textual-inversion", "word": "cat"}, "is in the model's vocabulary already"),
        (SHOWN, {"kind": "textual-inversion", "vectors": 16, "word": "<a>"}, ""),
        (FOX, {**LORA, "anchor_method": "dreambooth-lora"}, "is tuned itself"),
        (SHOWN, {"updates": 3}, "tuning.recipe.kind' is missing"),
        (SHOWN, {"file": "none.safetensors"}, "there is no such file"),
    ],
)
def test_bad_tuning_is_refused_before_anything_is_queued(tmp_path, text, tuning, message):
    text = text.replace("in a meadow", " ".join(["meadow"] * 60)) if not message else text
    with pytest.raises(InputError, match=message or "prompt has 8. tokens, the model reads 77"):
        plan_of(tmp_path, text, methods=[{"name": "mine", "base": "sdxl", "set": {"tuning": tuning}}])


@pytest.mark.parametrize("offload", ["model", "sequential", "group"])
def test_tuning_and_offload_are_refused_together(tmp_path, offload):
    with pytest.raises(InputError, match=f"method mine: .* offload {offload} takes them off"):
        plan_of(tmp_path, offload=offload)


def test_a_merge_brings_subjects_whole_and_what_is_there_stays(tmp_path, tiny):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    (one, store), (other, _) = plan_of(tmp_path / "a"), plan_of(tmp_path / "b", methods=["sdxl"])
    work(one, store, one.units, model=tiny)
    [subject] = set(one.subject_of.values())
    merged = merge([tmp_path / "a" / "run", tmp_path / "b" / "run"], tmp_path / "both")
    shelf = Store(tmp_path / "both", SHELF)
    assert shelf.present() == {subject} and shelf.problem(subject, deep=True) is None
    (shelf.folder(subject) / "manifest.json").unlink()
    merge([tmp_path / "a" / "run", tmp_path / "b" / "run"], tmp_path / "both")
    assert shelf.problem(subject, deep=True) is None
    assert set(merged.plan.methods) == {"mine", "sdxl"} and set(other.units) < set(merged.plan.units)
