"""Staging weights on the login node: a local server in place of the real one, whole files, hashes, clear errors."""

import hashlib
import http.server
import threading
import zipfile

import pytest

from svdstory.pipeline.config.strict import InputError
from svdstory.pipeline.metrics import staging
from svdstory.pipeline.metrics.names import NAMES, metric_name, parts

INSIDE = {
    "clip_vitb32_pretrain.pth.tar": b"backbone",
    "clip_vitb32_single_lora/adapter_config.json": b"{}",
    "clip_vitb32_single_lora/adapter_model.bin": b"adapter",
    "../outside": b"never unpacked",
}


@pytest.fixture
def release(tmp_path, monkeypatch):
    """DreamSim's release on a local server, its adapter under peft's older name."""
    served = tmp_path / "served"
    served.mkdir()
    with zipfile.ZipFile(served / "release.zip", "w") as archive:
        for name, content in INSIDE.items():
            archive.writestr(name, content)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(served))

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(staging, "DREAMSIM", f"http://127.0.0.1:{server.server_port}/release.zip")
    monkeypatch.setitem(
        staging.DREAMSIM_FILES, "clip_vitb32", staging._dreamsim("clip_vitb32", ["clip_vitb32_pretrain.pth.tar"])
    )
    yield served
    server.shutdown()
    server.server_close()


def test_a_release_is_fetched_and_only_the_wanted_files_are_unpacked(release, tmp_path):
    folder = tmp_path / "weights"
    files = staging.stage("dreamsim:clip_vitb32", folder)
    assert [file.read_bytes() for file in files] == [b"backbone", b"{}", b"adapter"]
    assert not (tmp_path / "outside").exists() and not (folder / "outside").exists()
    assert not list(folder.rglob(".*"))  # nothing half-written
    (release / "release.zip").unlink()
    assert staging.stage("dreamsim:clip_vitb32", folder) == files  # what is there is not fetched again


def test_a_source_that_lacks_a_file_is_named(release, tmp_path):
    with zipfile.ZipFile(release / "release.zip", "w") as archive:
        archive.writestr("clip_vitb32_pretrain.pth.tar", b"backbone")
    with pytest.raises(InputError, match="2 weight files are missing") as error:
        staging.stage("dreamsim:clip_vitb32", tmp_path / "weights")
    assert "adapter_config.json" in str(error.value)


def test_without_network_the_error_names_source_and_places(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setitem(
        staging.DREAMSIM_FILES, "clip_vitb32", [staging.WeightFile("dreamsim/a.pth", "http://127.0.0.1:9/a.pth")]
    )
    with pytest.raises(InputError, match="http://127.0.0.1:9/a.pth could not be fetched") as error:
        staging.stage("dreamsim:clip_vitb32", tmp_path)
    assert str(tmp_path / "dreamsim/a.pth") in str(error.value) and "login node" in str(error.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_hash_of_one_file_is_its_sha256_and_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "CLIP_FILES", [staging.WeightFile("clip/w.safetensors", "s")])
    path = tmp_path / "clip/w.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"one")
    assert staging.weights_hash("clipscore", tmp_path) == hashlib.sha256(b"one").hexdigest()
    monkeypatch.setattr(staging, "sha256", lambda path: pytest.fail("read again"))
    assert staging.weights_hash("clipscore", tmp_path) == hashlib.sha256(b"one").hexdigest()
    monkeypatch.undo()
    monkeypatch.setattr(staging, "CLIP_FILES", [staging.WeightFile("clip/w.safetensors", "s")])
    path.write_bytes(b"two!")
    assert staging.weights_hash("clipscore", tmp_path) == hashlib.sha256(b"two!").hexdigest()


@pytest.mark.parametrize("name", NAMES)
def test_every_scorer_but_those_that_ship_has_files_with_a_source(name):
    files = staging.files_of(name)
    assert bool(files) != (name.endswith((":tiny", ":miniature")) or name == "world")
    assert all(file.source.startswith("https://") for file in files)


@pytest.mark.parametrize("name", ["clipscor", "dreamsim:vgg", "clipscore+flat", "dreamsim:", "background+grey"])
def test_names_that_are_not_scorers_are_refused(name):
    with pytest.raises(InputError, match="unknown scorer"):
        parts(name)


def test_a_variants_metric_is_told_apart_from_the_defaults():
    assert metric_name("dreamsim", "dreamsim") == "dreamsim"
    assert metric_name("dreamsim:dino_vitb16+flat", "dreamsim_subject") == "dreamsim_subject:dino_vitb16+flat"
