"""From score files to measurements: every planned cell is there, and each missing number says why."""

from pathlib import Path

import pytest

from svdstory.jobs.report.measurements import higher_is_better, read_measurements, relative_to_plain
from svdstory.jobs.study.experiment import Experiment
from svdstory.jobs.study.plan import make_plan
from svdstory.jobs.study.scores import Shard, image_hashes, images_digest, shard_paths
from svdstory.jobs.study.store import Attempt, Store


class Fixed:
    """A scorer as far as its files go."""

    def __init__(self, name, weights="ab" * 32):
        self.name, self.protocol = name, {"scorer": name, "formula": "f", "weights": weights}


def write_score(run, key, scorer, images, values):
    """A shard of one unit's numbers."""
    shard = Shard(run)
    shard.add(key, scorer, images_digest(images), values)
    shard.publish()


@pytest.fixture(scope="module")
def plan():
    """Two methods with two seeds of one set."""
    experiment = Experiment(sets=("blue-bus",), methods=("sdxl", "unmasked"), model="tiny", seeds=(0, 1))
    plan = make_plan("two", experiment, Path())
    assert [(c.method, c.seed) for c in plan.cells] == [("sdxl", 0), ("sdxl", 1), ("unmasked", 0), ("unmasked", 1)]
    return plan


@pytest.fixture
def store(tmp_path, plan):
    """All units finished but the last, which failed; `background` scored for all that are finished."""
    store = Store(tmp_path)
    for number, planned in enumerate(plan.cells[:3]):
        store.publish(planned.key, {"0.png": b"0" * (number + 1), "1.png": b"1"}, {"images": 2}, Attempt.here())
        write_score(
            store.run,
            planned.key,
            Fixed("background"),
            image_hashes(store.manifest(planned.key)),
            {"background": 0.5 + number / 10, "background_pairs": [0.5]},
        )
    store.record_failure(plan.cells[3].key, "out of memory", "...", Attempt.here())
    return store


def values(measured, metric="background"):
    return [(c.method, c.seed, c.value, c.cause) for c in measured.cells if c.metric == metric]


def test_every_planned_cell_has_a_number_or_a_cause(plan, store):
    found = values(read_measurements(plan, store, ["background"]))
    assert found == [
        ("sdxl", 0, 0.5, ""),
        ("sdxl", 1, 0.6, ""),
        ("unmasked", 0, 0.7, ""),
        ("unmasked", 1, None, "out of memory"),
    ]


def test_leakage_beyond_plain_sampling_keeps_the_hole(plan, store):
    measured = relative_to_plain(read_measurements(plan, store, ["background"]))
    found = values(measured, "background excess over sdxl")
    assert found[2][2] == pytest.approx(0.2) and found[3][2:] == (None, "out of memory")
    assert "difference to sdxl's" in measured.protocols["background excess over sdxl"]["formula"]


def rescored(plan, store, number, scorer, images, numbers):
    """All shards anew: the plan's first three units with these numbers, unit `number` so."""
    for path in shard_paths(store.run):
        path.unlink()
    for i, planned in enumerate(plan.cells[:3]):
        own = image_hashes(store.manifest(planned.key))
        odd = i == number
        write_score(
            store.run, planned.key, scorer if odd else Fixed("background"), images if odd and images else own, numbers
        )
    return read_measurements(plan, store, ["background"])


def test_numbers_of_another_protocol_are_never_mixed_in(plan, store):
    measured = rescored(plan, store, 2, Fixed("background", "random (no weights staged)"), None, {"background": 0.9})
    assert values(measured)[2] == ("unmasked", 0, None, "scored under another protocol")
    assert measured.protocols["background"]["weights"] == "ab" * 32


def test_numbers_of_other_images_do_not_count(plan, store):
    measured = rescored(plan, store, 0, Fixed("background"), {"0.png": "other"}, {"background": 0.9})
    assert values(measured)[0][3] == "images changed since they were scored"


def test_scored_again_under_a_new_protocol_the_whole_run_has_the_new_numbers(plan, store):
    for planned in plan.cells[:3]:
        images = image_hashes(store.manifest(planned.key))
        write_score(store.run, planned.key, Fixed("background", "cd" * 32), images, {"background": 0.25})
    measured = read_measurements(plan, store, ["background"])
    assert [value for *_, value, _ in values(measured)] == [0.25, 0.25, 0.25, None]
    assert measured.protocols["background"]["weights"] == "cd" * 32


def test_what_a_scorer_failed_on_says_so_until_it_is_scored(plan, store):
    shard = Shard(store.run)
    for planned in plan.cells[:3]:
        shard.fail(planned.key, "clipscore", "out of memory: 80 GiB")
    shard.publish()
    measured = read_measurements(plan, store, ["clipscore"])
    assert values(measured, "clipscore")[0][3] == "not scored: out of memory: 80 GiB"
    assert measured.unscored == {"clipscore": {"not scored: out of memory: 80 GiB": 3}}
    images = image_hashes(store.manifest(plan.cells[0].key))
    write_score(store.run, plan.cells[0].key, Fixed("clipscore"), images, {"clipscore": 0.7})
    assert values(read_measurements(plan, store, ["clipscore"]), "clipscore")[0][2:] == (0.7, "")


def test_a_scorer_that_was_never_run_leaves_all_its_cells_missing(plan, store):
    found = values(read_measurements(plan, store, ["clipscore"]), "clipscore")
    assert [cause for *_, cause in found] == ["not scored"] * 3 + ["out of memory"]


def test_a_unit_that_gives_no_basis_for_a_number_says_so(plan, store):
    measured = rescored(plan, store, 0, Fixed("background"), None, {})
    assert values(measured)[0][3] == "a single image, or no usable subject mask"


def test_open_sets_leak_what_plain_sampling_drew_in_their_other_pictures(tmp_path, plan):
    store, scorer = Store(tmp_path), Fixed("world")
    desert, snow = [1.0] + [0.0] * 17, [0.0] * 3 + [1.0] + [0.0] * 14
    plain, leaky = [desert, snow], [[0.7, 0.0, 0.0, 0.2, 0.0, 0.0, 0.1] + [0.0] * 11, snow]
    for planned, looks in zip(plan.cells, (plain, plain, leaky)):
        store.publish(planned.key, {"0.png": b"0", "1.png": b"1"}, {"images": 2}, Attempt.here())
        images = image_hashes(store.manifest(planned.key))
        write_score(store.run, planned.key, scorer, images, {"background_looks": looks})
    measured = relative_to_plain(read_measurements(plan, store, ["world"]))
    found = values(measured, "scene_leakage excess over sdxl")
    assert [value for *_, value, _ in found] == [0.0, 0.0, pytest.approx(0.1), None]


def test_whether_higher_is_better_is_known_for_every_variant():
    assert higher_is_better("clipscore") and higher_is_better("layout relative to sdxl")
    assert not higher_is_better("dreamsim_subject:dino_vitb16+flat")
    assert not higher_is_better("background excess over sdxl")
