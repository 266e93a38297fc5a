"""Run folders: never writable by the world, whatever the umask; by a group of users where the site names one."""

import grp
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from svdstory.jobs.study.run_folder import prepare
from svdstory.jobs.study.sharing import guard, is_shared, share
from svdstory.jobs.study.store import Store
from svdstory.pipeline.config.strict import InputError
from tests.jobs.pretend import attempt
from tests.jobs.study import LIGHT
from tests.jobs.test_run_folder import plan_of

KEY = "ab" + "0" * 22


@pytest.fixture(autouse=True)
def umask_after():
    mask = os.umask(0)
    os.umask(mask)
    yield
    os.umask(mask)


def writable_by_the_world(folder: Path) -> list[Path]:
    return [path for path in [folder, *folder.rglob("*")] if path.stat().st_mode & stat.S_IWOTH]


def test_under_umask_000_no_file_or_folder_of_a_run_is_writable_by_the_world(tmp_path):
    experiment = tmp_path / "small.yaml"
    experiment.write_text("sets: [red-fox]\nmethods: [sdxl]\nmodel: tiny\nsteps: 2\nscorers: ['clipscore:tiny']\n")
    command = [sys.executable, "-m", "svdstory.jobs", "run", str(experiment), "--out", str(tmp_path / "runs" / "one")]
    path = os.pathsep.join(part for part in (os.environ.get("PYTHONPATH"), str(LIGHT)) if part)
    light = {"PYTHONPATH": path, "SVDSTORY_LIGHT": str(tmp_path), "SLURMD_NODENAME": "here"}
    done = subprocess.run(command, cwd=tmp_path, umask=0, capture_output=True, text=True, env={**os.environ, **light})
    assert (tmp_path / "runs" / "one" / "report" / "index.html").exists(), done.stderr
    assert writable_by_the_world(tmp_path / "runs") == []


def test_a_stricter_umask_of_the_user_stays(tmp_path):
    os.umask(0o077)
    guard(tmp_path)
    Store(tmp_path).publish(KEY, {"0.png": b"x"}, {}, attempt())
    assert stat.S_IMODE(Store(tmp_path).folder(KEY).stat().st_mode) == 0o700


def test_what_is_made_in_a_shared_run_is_the_groups(tmp_path):
    os.umask(0o022)
    mine = grp.getgrgid(os.getgid()).gr_name
    Store(tmp_path).publish(KEY, {"0.png": b"x"}, {}, attempt())
    share(tmp_path, mine)
    guard(tmp_path)
    other = "cd" + KEY[2:]
    Store(tmp_path).publish(other, {"0.png": b"x"}, {}, attempt())
    assert all(
        is_shared(folder) for folder in (tmp_path, tmp_path / "units", tmp_path / "units" / "cd", tmp_path / "tmp")
    )
    assert writable_by_the_world(tmp_path) == []


def test_a_group_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="no such group here"):
        share(tmp_path, "nobody-has-this-group")


def as_user(number: int, group: int | None, work) -> str:
    """Do `work()` as another user of the group, in a process of its own. Returns the error that it ended with."""
    ear, mouth = os.pipe()
    if not os.fork():
        try:
            os.setgroups([group] if group else [])
            os.setgid(number)
            os.setuid(number)
            os.umask(0o022)
            work()
        except BaseException as error:
            os.write(mouth, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(mouth)
    with os.fdopen(ear) as told:
        return told.read()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it becomes other users")
def test_a_second_user_of_the_group_goes_on_with_the_run_and_one_outside_may_not(tmp_path):
    for place in (tmp_path, *tmp_path.parents[:3]):
        place.chmod(0o755)
    group, run = grp.getgrgid(4), tmp_path / "run"  # any group that is there: `adm` on Debian
    run.mkdir()
    os.chown(run, 4001, 4001)
    plan = plan_of(run)
    first, second = list(plan.units)[:2]

    def owner():
        store = prepare(plan, run, group=group.gr_name)
        store.publish(first, {"0.png": b"x"}, {}, attempt())

    def colleague():
        store = prepare(plan, run)
        store.set_aside(first)
        store.publish(second, {"0.png": b"x"}, {}, attempt())

    assert as_user(4001, group.gr_gid, owner) == ""
    assert as_user(4002, group.gr_gid, colleague) == ""
    assert len(list(run.glob("units/*/*/manifest.json"))) == 1 and len(list(run.glob("corrupt/*"))) == 1
    assert "cannot be written" in as_user(4003, None, colleague)
