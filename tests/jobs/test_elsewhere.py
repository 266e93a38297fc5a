"""Laptops: what only Linux has is not needed there; workstations: a worker for each GPU."""

import json
import os
import subprocess
import sys

import pytest

from svdstory.jobs.node import local_run
from svdstory.jobs.report.draft import Draft
from svdstory.jobs.study.process import Process
from tests.jobs.test_run_folder import plan_of

# Loaded by every Python of the test's commands: no scheduler's word on cores, no /proc
WITHOUT_LINUX = """
import os, pathlib
del os.sched_getaffinity
def absent(call):
    def asked(path=".", *args, **kwargs):
        if str(path).startswith("/proc"):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return call(path, *args, **kwargs)
    return asked
for name in ("read_text", "read_bytes", "stat"):
    setattr(pathlib.Path, name, absent(getattr(pathlib.Path, name)))
os.scandir, os.stat = absent(os.scandir), absent(os.stat)
"""

# One process for all: each would import torch anew
IN_TURN = """
import json, sys
from svdstory.jobs.cli.app import main
def status(words):
    try:
        main(words.split())
    except SystemExit as ended:
        return ended.code or 0
print(json.dumps([status(words) for words in sys.argv[1:]]))
"""


def test_the_commands_of_a_laptop_run_without_what_only_linux_has(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "sitecustomize.py").write_text(WITHOUT_LINUX)
    (tmp_path / "small.yaml").write_text(
        "sets: [red-fox]\nmethods: [sdxl]\nmodel: tiny\nsteps: 2\nscorers: [clipscore:tiny]\n"
    )
    path = os.pathsep.join([str(tmp_path / "lib"), *filter(None, [os.environ.get("PYTHONPATH")])])

    environment = {**os.environ, "PYTHONPATH": path}
    commands = [
        "run small.yaml --out run",
        "plan small.yaml",
        "verify run --deep",
        "score run",
        "reduce run",
        "clean run",
    ]
    done = subprocess.run(
        [sys.executable, "-c", IN_TURN, *commands, "doctor --model tiny"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    *statuses, _ = json.loads(done.stdout.splitlines()[-1])
    assert statuses == [0] * len(commands) and "Traceback" not in done.stderr, done.stdout + done.stderr


def test_a_living_process_is_not_swept_where_there_is_no_proc(tmp_path, monkeypatch):
    """A report in the making, of a process that lives: ours."""
    making = tmp_path / f".report.{Process.here()}"
    making.mkdir()
    Draft(tmp_path)
    assert making.exists()


@pytest.mark.parametrize(
    "visible, device, expected",
    [
        ("0,1,2", None, ["cuda:0", "cuda:1", "cuda:2"]),
        ("3", None, [None]),
        ("0,1,2", "cuda:1", ["cuda:1"]),
        ("0,1,2", "cpu", ["cpu"]),
    ],
)
def test_on_a_workstation_each_gpu_has_a_worker(tmp_path, monkeypatch, visible, device, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    plan = plan_of(tmp_path).model_copy(update={"model": plan_of(tmp_path).model.model_copy(update={"source": "hub"})})
    workers = local_run.default_workers(plan, device)
    assert local_run.devices(workers, device) == expected
