"""Which tests share a worker of pytest-xdist."""

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before anything imports torch, whose threads would fight for the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """--dist loadfile, but all that want the test cluster go to one worker, which mostly waits: a cluster in each would
    play every scenario once more."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "slurm" if "/test_slurm_" in file else file

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None
