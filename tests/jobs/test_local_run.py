"""The workers of `svdstory run`: what each one makes, and when it ends."""

import os
import signal
import subprocess
import sys

from svdstory.jobs.study.tuned import dealt

RUN = """
import multiprocessing, os, sys, time, types
from pathlib import Path
from svdstory.jobs.node import local_run

def take_turn(*_, **__):  # a batch of pictures at a scorer: asks nobody for long
    print(os.getpid(), flush=True)
    time.sleep(600)

sys.modules["torch"] = types.ModuleType("torch")
sys.modules["svdstory.jobs.node.turn"] = types.SimpleNamespace(take_turn=take_turn)
local_run.GRACE_S = 0.0
if __name__ == "__main__":
    plan = types.SimpleNamespace(model=types.SimpleNamespace(source="hub"), scorers=())
    words = (plan, Path("run"), [], "cpu", None, None, os.getpid())
    multiprocessing.get_context("spawn").Process(target=local_run._work, args=words).start()
    time.sleep(600)
"""


def test_units_that_are_missing_are_shared_evenly_whichever_they_are():
    keys = [f"{number:024x}" for number in range(12)]
    missing = keys[1::4]  # by stride over all keys, one of two or four workers would get them all
    for workers in (2, 4):
        shares = dealt([[key] for key in keys], workers, set(keys) - set(missing))
        assert sorted(key for share in shares for key in share) == keys
        counts = [len(set(share) & set(missing)) for share in shares]
        assert max(counts) - min(counts) <= 1


def test_a_worker_ends_with_its_parent_also_where_it_asks_nobody(tmp_path):
    (tmp_path / "run.py").write_text(RUN)
    run = subprocess.Popen([sys.executable, "run.py"], cwd=tmp_path, stdout=subprocess.PIPE)
    worker = int(run.stdout.readline())
    run.terminate()
    try:
        assert run.communicate(timeout=120) == (b"", None)  # until the last who could write there has ended
    except subprocess.TimeoutExpired:
        os.kill(worker, signal.SIGKILL)
        raise
