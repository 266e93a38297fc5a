"""Which tests share a worker of pytest-xdist, and which come first."""

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before anything imports torch, whose threads would fight for the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

SLURM = "slurm"
LONG = (  # half a minute and more: begun last, one worker would be at it while the others have nothing left
    SLURM,
    "tests/jobs/test_run.py",
    "tests/pipeline/test_reference_sampler.py",
    "tests/pipeline/test_sampler.py",
    "tests/pipeline/test_certify.py",
    "tests/pipeline/test_wrapped_unets.py",
    "tests/jobs/test_reduce.py",
    "tests/jobs/test_figures.py",
    "tests/jobs/test_certificate.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """--dist loadfile, but all that want the test cluster go to one worker, which mostly waits: a cluster in each would
    play every scenario once more. The longest come first, then those with the most tests."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return SLURM if "/test_slurm_" in file else file

        def _assign_work_unit(self, node) -> None:
            for scope in reversed(LONG):
                if scope in self.workqueue:
                    self.workqueue.move_to_end(scope, last=False)
            super()._assign_work_unit(node)

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None
