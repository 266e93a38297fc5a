"""Who a process is: named so that no two are alike, and so that it can be told whether it has ended.

A pid alone is neither: two containers on one host, under one host name, have the same pids; and pids are used again.
"""

import hashlib
import os
import re
import secrets
import socket
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """host: without its domain. place: what its pid counts in (this boot, this PID namespace). token: a random part."""

    host: str
    pid: int
    place: str
    token: str

    @classmethod
    def here(cls) -> "Process":
        return _named(os.getpid())

    @classmethod
    def of(cls, text: str) -> "Process | None":
        """The process whose text this is. None for a text that is none's."""
        found = re.fullmatch(r"(.+)-(\d+)-([0-9a-f]{8})-([0-9a-f]{6})", text)
        return cls(found[1], int(found[2]), found[3], found[4]) if found else None

    def __str__(self) -> str:
        return f"{self.host}-{self.pid}-{self.place}-{self.token}"

    @property
    def is_near(self) -> bool:
        """Whether its pid says something here: on this machine, since this boot, in this PID namespace."""
        return (self.host, self.place) == (Process.here().host, Process.here().place)

    @property
    def is_dead(self) -> bool:
        """Whether it is known to have ended. Of another machine's or container's nothing is known."""
        if not self.is_near:
            return False
        if self.pid == os.getpid():
            return self.token != Process.here().token  # one before us had our pid
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:  # another user's
            pass
        return False


@lru_cache(maxsize=1)
def _named(pid: int) -> Process:
    """This process; a fork has another pid, and so a name of its own. Host names and namespaces stay as they are."""
    return Process(socket.gethostname().split(".")[0], pid, _place(), secrets.token_hex(3))


def _place() -> str:
    """8 hex digits for this boot and this PID namespace; where the system has no such words (macOS), for the machine."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        words = [boot, str(os.stat("/proc/self/ns/pid").st_ino)]
    except OSError:
        words = [os.uname().nodename, os.uname().machine]
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:8]
