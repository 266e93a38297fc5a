"""Which tests share a worker of pytest-xdist."""

import pytest


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
