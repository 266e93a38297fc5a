"""Waiting for jobs of Slurm, whatever its controller does meanwhile."""

import time
from collections.abc import Callable

from svdstory.jobs.queue.scheduler import SlurmError

ASK_EVERY_S = 15.0  # a controller has other work
PATIENCE_S = 1800.0  # a controller is restarted, mended, moved to another machine in less


def wait_while(lives: Callable[[], bool]) -> None:
    """Until `lives()` is false. A controller that is silent is asked again.

    Raises SlurmError, with its last words, where it has been silent for PATIENCE_S. The jobs go on.
    """
    heard = time.monotonic()
    while True:
        try:
            if not lives():
                return
            heard = time.monotonic()
        except SlurmError as error:
            if time.monotonic() - heard >= PATIENCE_S:
                raise SlurmError(error.command, f"{error.words} (and so for {PATIENCE_S / 60:g} minutes)") from None
        time.sleep(ASK_EVERY_S)
