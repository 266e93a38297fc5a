"""Which tests share a worker of pytest-xdist (--dist loadgroup)."""

import pytest


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items):
    """All that want the test cluster go to one worker, which mostly waits: a cluster in each would play every scenario
    once more. The others stay with their file, and so with its fixtures."""
    for item in items:
        on_slurm = {"cluster", "stage"} & set(item.fixturenames)
        item.add_marker(pytest.mark.xdist_group("slurm" if on_slurm else item.path.stem))
