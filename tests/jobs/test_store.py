"""The store: what is published is whole, and nothing that was finished is lost."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from svdstory.jobs.study.process import Process
from svdstory.jobs.study.store import Attempt, Store
from tests.jobs.pretend import attempt, process

KEY = "ab" + "0" * 22
FILES = {"0.png": b"first", "1.png": b"second"}
ATTEMPT = attempt()


def test_published_unit_is_finished_and_names_its_files(tmp_path):
    store = Store(tmp_path)
    assert store.problem(KEY) == "missing"
    assert store.publish(KEY, FILES, {"seed": 1}, ATTEMPT)
    assert store.problem(KEY, deep=True) is None and store.present() == {KEY}
    listed = store.manifest(KEY)["files"]["0.png"]
    assert listed == {"size": 5, "sha256": hashlib.sha256(b"first").hexdigest()}
    assert not list((tmp_path / "tmp").iterdir())


def test_second_attempt_verifies_the_first_and_discards_its_own(tmp_path):
    store = Store(tmp_path)
    store.publish(KEY, FILES, {"by": "first"}, ATTEMPT)
    assert not store.publish(KEY, FILES, {"by": "second"}, attempt(restart=1))
    assert store.manifest(KEY)["by"] == "first" and not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize(
    "damage, problem",
    [
        (lambda f: (f / "0.png").write_bytes(b"fir"), "0.png: 3 bytes, expected 5"),
        (lambda f: (f / "manifest.json").write_text('{"files": {"0.pn'), "manifest unreadable"),
        (lambda f: (f / "1.png").unlink(), "1.png: No such file"),
        (lambda f: (f / "manifest.json").unlink(), "no manifest"),
    ],
)
def test_damaged_unit_is_not_finished_and_is_set_aside_when_made_again(tmp_path, damage, problem):
    store = Store(tmp_path)
    store.publish(KEY, FILES, {}, ATTEMPT)
    damage(store.folder(KEY))
    assert problem in store.problem(KEY)
    assert store.publish(KEY, FILES, {}, ATTEMPT)
    assert store.problem(KEY, deep=True) is None and (tmp_path / "corrupt" / f"{KEY}.0").is_dir()


def test_changed_content_of_the_same_size_is_found_by_a_deep_look(tmp_path):
    store = Store(tmp_path)
    store.publish(KEY, FILES, {}, ATTEMPT)
    (store.folder(KEY) / "0.png").write_bytes(b"FIRST")
    assert store.problem(KEY) is None and "differs" in store.problem(KEY, deep=True)


PUBLISH = """
import os, signal, sys
from pathlib import Path
from svdstory.jobs.study import store
calls, at = 0, int(sys.argv[2])
def counted(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
os.fsync, os.rename, os.open = counted(os.fsync), counted(os.rename), counted(os.open)
Path.open, Path.mkdir = counted(Path.open), counted(Path.mkdir)
s = store.Store(Path(sys.argv[1]))
s.sweep()
s.publish("KEY", {"0.png": b"first", "1.png": b"second"}, {}, store.Attempt.here())
""".replace("KEY", KEY)


def test_sigkill_at_each_step_of_publishing_leaves_a_whole_unit_or_none(tmp_path):
    killed = 0
    for at in range(1, 40):
        run = tmp_path / str(at)
        done = subprocess.run([sys.executable, "-c", PUBLISH, str(run), str(at)])
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        killed += 1
        assert Store(run).problem(KEY, deep=True) in (None, "missing")
        again = subprocess.run([sys.executable, "-c", PUBLISH, str(run), "0"])
        assert again.returncode == 0 and Store(run).problem(KEY, deep=True) is None
        assert sorted(p.name for p in Store(run).folder(KEY).iterdir()) == ["0.png", "1.png", "manifest.json"]
        assert not list((run / "tmp").iterdir())
    assert killed >= 10


def test_concurrent_publishers_end_with_one_unit(tmp_path):
    store, mine = Store(tmp_path), []
    threads = [
        threading.Thread(target=lambda n=n: mine.append(store.publish(KEY, FILES, {}, attempt(pid=n))))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(mine) == 1 and len(mine) == 8 and store.problem(KEY, deep=True) is None


def test_failures_are_kept_with_their_cause(tmp_path):
    store = Store(tmp_path)
    store.record_failure(KEY, "out of memory", "at step 3", ATTEMPT)
    store.record_failure(KEY, "bug", "later", attempt(restart=1))
    assert [f.cause for f in store.failures()[KEY]] == ["out of memory", "bug"]


def test_sweep_spares_the_living_and_other_hosts(tmp_path):
    here = Attempt.here()
    names = [
        f"{KEY}.{here}",
        f"{KEY}.{attempt(host='elsewhere')}",
        f"{KEY}.{attempt()}",
    ]
    for name in names:
        (tmp_path / "tmp" / name).mkdir(parents=True)
    assert Store(tmp_path).sweep() == [names[2]]


def test_sweep_spares_the_drafts_of_another_container_on_this_host(tmp_path):
    """The same host name and a pid that is nobody's here: it may be somebody's there."""
    there = Attempt("local", 0, process(place="0" * 8))
    (tmp_path / "tmp" / f"{KEY}.{there}").mkdir(parents=True)
    assert Store(tmp_path).sweep() == []


def test_what_an_earlier_process_with_this_ones_pid_left_is_swept(tmp_path):
    before = Attempt("local", 0, replace(Process.here(), token="0" * 6))
    (tmp_path / "tmp" / f"{KEY}.{before}").mkdir(parents=True)
    assert len(Store(tmp_path).sweep()) == 1


def test_processes_are_told_apart_although_host_and_pid_are_equal():
    """Two containers on one host, each with its own pid 1."""
    one, other = replace(Process.here(), token="0" * 6), replace(Process.here(), place="0" * 8)
    assert len({str(p) for p in (one, other, Process.here())}) == 3 and Process.of(str(other)) == other
    assert Process.here().is_near and not other.is_near


def test_sweep_tells_a_host_from_one_whose_name_ends_with_its_name(tmp_path, monkeypatch):
    mine = replace(Process.here(), host="a100")
    monkeypatch.setattr(Process, "here", classmethod(lambda _: mine))
    names = [f"{KEY}.{attempt('17_3', host=host)}" for host in ("a100", "gpu-a100", "r1-a100")]
    for name in names:
        (tmp_path / "tmp" / name).mkdir(parents=True)
    assert Store(tmp_path).sweep() == names[:1]


def test_a_damaged_unit_that_cannot_be_moved_aside_is_an_error_not_an_endless_loop(tmp_path, monkeypatch):
    store, rename = Store(tmp_path), os.rename
    store.publish(KEY, FILES, {}, ATTEMPT)
    (store.folder(KEY) / "1.png").unlink()

    def refused(source, target):
        if Path(target).parent.name == "corrupt":
            raise PermissionError(errno.EACCES, "Permission denied", str(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", refused)
    with pytest.raises(PermissionError, match="corrupt"):
        store.publish(KEY, FILES, {}, ATTEMPT)


def test_a_number_that_is_taken_in_corrupt_is_passed_over(tmp_path):
    store = Store(tmp_path)
    for _damaged in range(3):
        store.publish(KEY, FILES, {}, ATTEMPT)
        (store.folder(KEY) / "1.png").unlink()
    store.publish(KEY, FILES, {}, ATTEMPT)
    assert sorted(path.name for path in (tmp_path / "corrupt").iterdir()) == [f"{KEY}.{n}" for n in range(3)]


def test_full_disk_publishes_nothing_and_leaves_nothing(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True)
    try:
        store = Store(disk)
        with pytest.raises(OSError, match="No space left"):
            store.publish(KEY, {"0.png": b"x" * 200_000}, {}, ATTEMPT)
        assert store.problem(KEY) == "missing" and not list((disk / "tmp").iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_which_units_have_failed_is_told_by_names_alone(tmp_path):
    store = Store(tmp_path)
    assert store.failed() == set()
    store.record_failure("a" * 24, "bug", "a bug", Attempt.here())
    for path in (tmp_path / "failures").iterdir():
        path.write_text("nobody reads this")
    assert store.failed() == {"a" * 24}
