"""A plain pytest installs nothing: what the tests want besides Python comes by tests/setup.sh, which is asked for."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.jobs.cluster import PROGRAMS, left_out
from tests.jobs.pretend import pretend

ROOT = Path(__file__).parents[1]


@pytest.fixture
def without_programs(tmp_path, monkeypatch):
    """A machine with apt-get and without Slurm. Gives the file that tells what apt-get was asked."""
    calls, bare = tmp_path / "apt-get was asked", tmp_path / "bare"
    bare.mkdir()
    for name in ("bash", "sh", "id", "dirname", "tr", "rm", "chmod", "hostname"):
        (bare / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(bare))
    pretend(monkeypatch, bare, **{"apt-get": f'echo "$@" >> "{calls}"; exit 1'})
    return calls


def test_without_slurm_its_tests_are_left_out_with_the_way_to_install_it(without_programs, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("tests.jobs.cluster.PROGRAMS", tuple(f"{name}-of-nobody" for name in PROGRAMS))
    assert "slurmctld-of-nobody" in left_out() and "tests/setup.sh" in left_out()
    assert not without_programs.exists()


def test_bringing_the_cluster_up_installs_nothing():
    script = (ROOT / "slurm" / "cluster.sh").read_text()
    up = script.split("\nup() {")[1].split("\n}")[0]
    assert "programs" in up and "apt-get" not in up and not [line for line in up.splitlines() if line == "  install"]


def test_the_set_up_says_what_it_leaves_out_where_it_may_not_install(without_programs):
    (without_programs.parent / "bare" / "id").unlink()
    pretend_id = without_programs.parent / "bare" / "id"
    pretend_id.write_text("#!/bin/sh\necho 1000\n")
    pretend_id.chmod(0o755)
    done = subprocess.run([ROOT / "tests" / "setup.sh"], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0 and "left out" in done.stdout and not without_programs.exists()
