"""Slurm's warning signals: end the current unit in time, or give it up; and be queued again exactly once.

USR2 comes before the time limit (`--signal=USR2@lead`) and at the start of a preemption's grace. TERM comes with
scancel, at the limit itself, and where preemption has no warning. A job that Slurm is already ending is never requeued
by us: that would bring back what a user has cancelled.

An element of an array is called by `17_3`, never by SLURM_JOB_ID: one of them has the array's own number as its job id,
and `scontrol requeue 17` would start all elements again.
"""

import os
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable

from svdstory.jobs.queue import scheduler
from svdstory.jobs.queue.scheduler import SlurmError
from svdstory.jobs.study.store import Attempt

OUTSIDE = 85  # exit status of a task that cannot ask Slurm itself (cluster/parameters.py, slurm/run.sbatch)
RESERVE_S = 5.0  # of the lead: for asking Slurm to requeue


class Stop:
    """Called, it says whether to stop. At the deadline after a signal it ends the process itself.

    `closing()` is called once, before the process is given back: to write down what was reached.
    """

    def __init__(self, lead_s: float, requeue: bool, closing: Callable[[], None]):
        self.lead_s = lead_s
        self.requeue = requeue
        self._closing = closing
        self._asked = threading.Event()
        self._ended = threading.Lock()
        self._over = False

    def __call__(self) -> bool:
        return self._asked.is_set()

    def listen(self) -> None:
        """Take over USR2 and TERM. In the main thread only.

        The signal's number arrives in a pipe at once, even while the main thread is inside a long GPU call; a thread of
        our own reads it there.
        """
        ear, mouth = os.pipe()
        os.set_blocking(mouth, False)
        signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        threading.Thread(target=self._wait, args=(ear,), daemon=True).start()

    def _wait(self, ear: int) -> None:
        while (number := os.read(ear, 1)[0]) not in (signal.SIGUSR2, signal.SIGTERM):
            pass
        deadline = time.monotonic() + max(1.0, self.lead_s - RESERVE_S)
        print(f"signal {signal.Signals(number).name}: ending the current unit within {self.lead_s:g} s", flush=True)
        self._asked.set()
        time.sleep(max(0.0, deadline - time.monotonic()))
        self.give_back()

    def over(self) -> None:
        """All is done: from now on a signal changes nothing. Does not return where the process is being given back."""
        self._over = self._ended.acquire(blocking=False)
        if not self._over:
            self._wait_for_the_other()

    def _wait_for_the_other(self) -> None:
        """The other thread has ended the work: it ends the process, too, unless all was done."""
        time.sleep(0 if self._over else max(60.0, self.lead_s))
        if not self._over:
            os._exit(75)

    def give_back(self) -> None:
        """Requeue the job, if it is to be, and end the process: when the worker has stopped, or at the deadline."""
        if not self._ended.acquire(blocking=False):
            return self._wait_for_the_other()
        try:
            self._closing()
        except Exception:  # what was reached is not written down; the units themselves are
            traceback.print_exc()
        if self.requeue and shutil.which("scontrol") is None:  # in a container: the job's script is outside
            print("to be requeued by the job's script: Slurm's commands are not here", flush=True)
            os._exit(OUTSIDE)
        if self.requeue and _still_ours():  # a job that was cancelled meanwhile stays so
            try:
                scheduler.ask("scontrol", "requeue", Attempt.here().job)
                print("requeued: the next attempt goes on with the units that are left", flush=True)
            except SlurmError as error:
                print(f"not requeued ({error}). `svdstory submit` adds what is left.", flush=True)
        elif self.requeue:
            print(
                "not requeued: Slurm has ended this attempt, or does not answer. `svdstory submit` adds what is left.",
                flush=True,
            )
        os._exit(75)  # EX_TEMPFAIL: nothing is lost, not all is done


def _still_ours() -> bool:
    """Whether Slurm goes on with this very attempt: TERM was sent by somebody else than a scheduler that ends it."""
    me = Attempt.here()
    try:
        told = scheduler.ask("squeue", "-h", "-j", me.job, "-O", "State:20,RestartCnt:20").split()
    except SlurmError:
        return False
    return told == ["RUNNING", str(me.restart)]
