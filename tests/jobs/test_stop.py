"""A process that gives its job back asks Slurm to queue it again only while the job is this very attempt's."""

import os
import subprocess
import sys

import pytest

from svdstory.jobs.node.stop import OUTSIDE
from tests.jobs.pretend import pretend

GIVE_BACK = """
from svdstory.jobs.node.stop import Stop
def closing():
    {closing}
Stop(6.0, {requeue}, closing).give_back()
"""


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Gives back attempt 1 of job 17_3, where squeue prints `told`; returns what scontrol was asked, and the log."""

    def give_back(told: str, requeue: bool = True, closing: str = "pass") -> tuple[list[str], str]:
        calls = tmp_path / "calls"
        pretend(monkeypatch, tmp_path / "bin", squeue=told, scontrol=f'echo "$@" >> {calls}')
        environment = {**os.environ, "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "1"}
        done = subprocess.run(
            [sys.executable, "-c", GIVE_BACK.format(closing=closing, requeue=requeue)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 75
        return calls.read_text().splitlines() if calls.exists() else [], done.stdout + done.stderr

    return give_back


def test_an_attempt_that_slurm_runs_is_queued_again_by_its_own_element(asked):
    assert asked("echo RUNNING 1")[0] == ["requeue 17_3"]


@pytest.mark.parametrize(
    "told",
    [
        "echo RUNNING 2",
        "echo CANCELLED 1",
        "echo PENDING 2",
        "echo slurm_load_jobs error: Invalid job id specified >&2; exit 1",
    ],
    ids=["runs elsewhere", "cancelled", "queued already", "gone"],
)
def test_a_job_that_is_no_longer_this_attempts_is_left_alone_and_it_is_said(asked, told):
    calls, log = asked(told)
    assert calls == [] and "svdstory submit" in log


def test_a_task_that_is_not_to_be_requeued_asks_nothing(asked):
    assert asked("echo RUNNING 1", requeue=False)[0] == []


def test_what_was_reached_may_fail_to_be_written_and_the_job_is_queued_again_all_the_same(asked):
    calls, log = asked("echo RUNNING 1", closing="raise OSError('No space left on device')")
    assert calls == ["requeue 17_3"] and "No space left" in log


OVER = """
from svdstory.jobs.node.stop import Stop
import os, signal, time
stop = Stop(6.0, True, lambda: print("given back", flush=True))
stop.listen()
os.kill(os.getpid(), signal.SIGUSR2)  # during the last unit
while not stop():
    time.sleep(0.01)
stop.over()
stop.give_back()  # as its thread does at the deadline
print("ended well", flush=True)
"""


def test_a_signal_during_the_last_unit_does_not_bring_a_finished_task_back(tmp_path, monkeypatch):
    calls = tmp_path / "calls"
    pretend(monkeypatch, tmp_path / "bin", squeue="echo RUNNING 0", scontrol=f'echo "$@" >> {calls}')
    done = subprocess.run([sys.executable, "-c", OVER], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "ended well" in done.stdout and not calls.exists()
    assert "given back" not in done.stdout


def test_where_slurms_commands_are_absent_the_jobs_script_is_asked_to_requeue(tmp_path):
    """In a container: it exits with the status that the script knows."""
    bare = tmp_path / "bare"
    bare.mkdir()
    code = GIVE_BACK.format(closing="pass", requeue=True)
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PATH": str(bare)}, capture_output=True, text=True
    )
    assert done.returncode == OUTSIDE and "by the job's script" in done.stdout


STUCK = """
from svdstory.jobs.node.stop import Stop
import os, signal, threading
stop = Stop(6.0, {requeue}, lambda: print("closed, asked:", stop(), flush=True))
stop.listen()
print("asked:", stop(), flush=True)
os.kill(os.getpid(), signal.{signal})
threading.Event().wait(60)  # a GPU call that does not come back
"""


@pytest.mark.parametrize("number", ["SIGUSR2", "SIGTERM"])
def test_a_unit_that_does_not_end_in_time_is_given_up_at_the_deadline(tmp_path, monkeypatch, number):
    """One second of a lead of six: the rest is for asking Slurm."""
    calls = tmp_path / "calls"
    pretend(monkeypatch, tmp_path / "bin", squeue="echo RUNNING 0", scontrol=f'echo "$@" >> {calls}')
    environment = {**os.environ, "SLURM_JOB_ID": "17"}
    code = STUCK.format(requeue=True, signal=number)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=50)
    lines = done.stdout.splitlines()
    assert done.returncode == 75 and lines[0] == "asked: False" and "closed, asked: True" in lines
    assert sum("closed" in line for line in lines) == 1 and calls.read_text() == "requeue 17\n"
