"""What a worker records of a failure, and of a unit that it made."""

import errno
import json

import pytest
import torch

from svdstory.jobs.node import causes, manifest, record_spectra, worker
from svdstory.jobs.study.command_line import command_of
from svdstory.jobs.study.experiment import Experiment
from svdstory.jobs.study.plan import make_plan
from svdstory.jobs.study.store import Store
from svdstory.pipeline.config.strict import parse
from svdstory.pipeline.decoding import NotFinite
from svdstory.pipeline.spectral import bank as spectral_bank

FOX = "style: A photo of\nsubject: a red fox\nconcept: fox\nsettings: [in the snow, at the beach, in a city]\n"


@pytest.mark.parametrize(
    "error, cause",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out of memory"),
        (RuntimeError("CUDA error: out of memory"), "out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out of memory"),
        (
            RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
            "out of memory",
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
        (MemoryError(), "out of memory"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "bad node"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk full"),
        (NotFinite("the latents hold inf or nan"), "not finite"),
        (FloatingPointError("an anchor's keys or values hold inf or nan"), "not finite"),
        (ZeroDivisionError("division by zero"), "bug"),
        (ValueError("a file named out of memory"), "bug"),
    ],
)
def test_a_failure_has_one_cause(error, cause):
    assert causes.cause_of(error) == cause


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "fox.yaml").write_text(FOX)
    content = {"sets": ["fox.yaml"], "methods": ["unmasked"], "model": "tiny", "steps": 2}
    return make_plan("test", parse(Experiment, content, "test"), tmp_path)


def test_a_unit_tells_the_micro_batch_and_the_device_it_was_made_with(plan, tmp_path):
    store, [key] = Store(tmp_path / "run"), list(plan.units)
    assert worker.work(plan, store, [key], device="cpu", micro_batch=1).made == [key]
    manifest = store.manifest(key)
    assert manifest["micro_batch"] == 1 and manifest["device"] == "cpu"


def test_a_pictures_parameters_name_svdstorys_seed_and_command_and_no_seed_that_others_would_draw(plan):
    [cell] = plan.units.values()
    told = manifest.text_chunks(plan, cell, 1)["parameters"]
    assert told.startswith("A photo of a red fox at the beach\nSteps: 2, Sampler: ddim")
    assert f"svdstory seed: {cell.seed}, svdstory command: " in told and ", Seed:" not in told and "\nSeed:" not in told
    assert json.loads(told.partition("svdstory command: ")[2]) == command_of(plan, cell)


@pytest.mark.parametrize("exact", [False, True])
def test_studies_filter_within_the_tolerance_unless_told_otherwise(tmp_path, monkeypatch, exact):
    monkeypatch.setattr(spectral_bank, "SMALLEST", 16)  # the miniature's ranks are 48 and 96
    content = {
        "sets": ["world-cat"],
        "methods": ["svd-fraction-0.1"],
        "model": "miniature",
        "steps": 3,
        "exact_filter": exact,
    }
    plan, store = make_plan("test", parse(Experiment, content, "test"), tmp_path), Store(tmp_path / "run")
    [key] = plan.units
    assert worker.work(plan, store, [key], device="cpu").made == [key]
    counters = store.manifest(key)["counters"]
    assert counters["exact"] == (counters["matrices"] if exact else 0) and counters["matrices"] > 0


def test_spectra_are_recorded_with_the_micro_batch_that_fits(plan, tmp_path, monkeypatch):
    calls = []
    generate = record_spectra.generate
    monkeypatch.setattr(record_spectra, "fitting", lambda *known: 1)
    monkeypatch.setattr(record_spectra, "generate", lambda *a, **k: calls.append(k["micro_batch"]) or generate(*a, **k))
    [path] = record_spectra.record_spectra(plan, tmp_path, list(plan.units), device="cpu")
    assert path.is_file() and calls == [1]


def out_of_memory_above(most: int, monkeypatch) -> list[int | None]:
    """A card that holds `most` images at once, besides the anchors. Gives the micro-batches that were tried."""
    tried, generate = [], worker.generate

    def on_a_small_card(*args, micro_batch, **settings):
        tried.append(micro_batch)
        if micro_batch is None or micro_batch > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(*args, micro_batch=micro_batch, **settings)

    monkeypatch.setattr(worker, "generate", on_a_small_card)
    return tried


def test_out_of_memory_is_tried_again_at_once_with_half_the_images_and_gives_the_same(plan, tmp_path, monkeypatch):
    ample, small, [key] = Store(tmp_path / "ample"), Store(tmp_path / "small"), list(plan.units)
    worker.work(plan, ample, [key], device="cpu")
    tried = out_of_memory_above(1, monkeypatch)
    assert worker.work(plan, small, [key], device="cpu").made == [key] and tried == [None, 1]
    assert not small.failures() and small.manifest(key)["micro_batch"] == 1
    assert small.manifest(key)["files"] == ample.manifest(key)["files"]


def test_what_does_not_fit_one_image_at_a_time_fails_as_out_of_memory_once(plan, tmp_path, monkeypatch):
    store, [key] = Store(tmp_path / "run"), list(plan.units)
    tried = out_of_memory_above(0, monkeypatch)
    assert worker.work(plan, store, [key], device="cpu").failed == {key: "out of memory"}
    assert tried == [None, 1] and len(store.failures()[key]) == 1


def test_other_failures_are_not_tried_again(plan, tmp_path, monkeypatch):
    store, [key], calls = Store(tmp_path / "run"), list(plan.units), []
    monkeypatch.setattr(worker, "generate", lambda *_, **__: calls.append(1) or 1 / 0)
    assert worker.work(plan, store, [key], device="cpu").failed == {key: "bug"} and calls == [1]
