"""How many cores this process may use."""

import os


def cores() -> int:
    """Those that the scheduler gives us; where it does not say (macOS), all that the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
