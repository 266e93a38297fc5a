"""The benchmarks at toy size: they run, count right and record what they ran on."""

import json

import pytest
import torch

from svdstory.pipeline.bench import memory, record, spectral
from svdstory.pipeline.methods import SpectralFilter

torch.set_num_threads(1)


def test_a_record_names_versions_device_and_rows_and_has_a_table(tmp_path, capsys):
    path = record.save("toy", [{"what": "a", "seconds": 0.123456}], "cpu", tmp_path, "A note.")
    saved = json.loads(path.read_text())
    assert saved["rows"] == [{"what": "a", "seconds": 0.123456}]
    assert torch.__version__.startswith(saved["environment"]["torch"])
    assert "| a    | 0.123   |" in path.with_suffix(".md").read_text()
    assert "0.123" in capsys.readouterr().out


def test_both_protocols_give_the_same_matrices(monkeypatch):
    monkeypatch.setattr(spectral, "MATRICES", 2)
    steps = spectral.drifting((300, 280), 0.1, 2, "cpu")
    spec = SpectralFilter(keep_fraction=0.05)
    assert spectral.ours(steps, spec, "cpu")["error"] < 1e-3
    assert spectral.published(steps[-1][:1], spec, "cpu")["published error"] < 1e-4


def test_drift_is_what_it_says(monkeypatch):
    monkeypatch.setattr(spectral, "MATRICES", 1)
    first, second = spectral.drifting((300, 280), 0.1, 2, "cpu")
    assert spectral.relative(second, first.double()) == pytest.approx(0.1, rel=0.1)


def test_followed_counts_what_is_alive_and_not_the_weights():
    layer = torch.nn.Linear(256, 256, bias=False, device="meta")
    with torch.no_grad(), memory.Followed(layer) as followed:
        x = torch.empty(10, 256, device="meta")     # 10 KiB
        y = layer(x)                                # and 10 more
        del x
        z = y + 1                                   # and 10 in place of the first
    assert followed.peak == 20 * 1024
    assert followed.now == 20 * 1024
    del y, z
    assert followed.now == 0
