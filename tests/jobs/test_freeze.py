"""The copy of the code beside a run: whole, or an error."""

import errno
from pathlib import Path

import pytest

from svdstory.jobs.cluster.freeze import freeze
from svdstory.pipeline.config.strict import InputError


@pytest.mark.parametrize("code", [errno.EDQUOT, errno.ENOSPC, errno.EACCES])
def test_a_copy_that_could_not_be_made_is_not_taken_for_another_launchers(tmp_path, monkeypatch, code):
    def refused(*_):
        raise OSError(code, "refused")

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(InputError, match="cannot be copied there .refused.. Nothing was queued"):
        freeze(tmp_path)
    assert list((tmp_path / "code").iterdir()) == []


def test_where_another_launcher_was_quicker_its_copy_is_taken(tmp_path, monkeypatch):
    rename = Path.rename

    def beaten(draft, target):
        rename(draft, target)
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr(Path, "rename", beaten)
    assert (freeze(tmp_path) / "svdstory" / "jobs" / "node" / "task.py").exists()
