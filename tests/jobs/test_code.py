"""One identity of the code, wherever it stands; and a report says where a run mixes code or devices."""

import json
import os
import shutil
import subprocess
import sys

from svdstory.jobs.cluster.freeze import freeze
from svdstory.jobs.report.cells import read_study
from svdstory.jobs.report.reduce import reduce
from svdstory.jobs.study.code import identity
from tests.jobs.synthetic import synthetic_run

TELL = "import json; from svdstory.jobs.study.code import identity; print(json.dumps(identity()))"


def told_by(folder) -> dict:
    """The identity that code in this folder tells of itself."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", TELL], cwd="/", env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_a_frozen_copy_tells_the_identity_of_what_it_was_copied_from(tmp_path):
    assert told_by(freeze(tmp_path)) == identity() and identity()["hash"]


def test_an_installed_copy_without_git_has_the_same_hash(tmp_path):
    copy = freeze(tmp_path)
    (copy / "svdstory" / "code.json").unlink()
    (copy / "svdstory" / "jobs" / "cli" / "README.md").write_text("a page that a wheel does not carry")
    assert told_by(copy) == {"hash": identity()["hash"], "revision": ""}
    (copy / "svdstory" / "jobs" / "__init__.py").write_text("changed = True\n")
    assert told_by(copy)["hash"] != identity()["hash"]


def test_the_report_says_where_a_run_mixes_code_torch_and_devices(tmp_path):
    plan = synthetic_run(tmp_path)
    assert read_study(tmp_path).mixtures == []
    manifest = tmp_path / "units" / (key := list(plan.units)[0])[:2] / key / "manifest.json"
    changed = json.loads(manifest.read_text()) | {
        "device": "Tesla V100",
        "code": {"hash": "0123456789ab", "revision": "f" * 40},
        "versions": {"torch": "2.8.0", "diffusers": "0.35"},
    }
    manifest.write_text(json.dumps(changed))
    notes = "\n".join(reduce(tmp_path, figures=[]).notes)
    for words in ("different code", "different devices", "versions of torch", "versions of diffusers"):
        assert words in notes
    assert "Tesla V100 (1 units)" in notes and "0123456789ab" in (tmp_path / "report" / "report.md").read_text()
    shutil.rmtree(tmp_path / "report")
