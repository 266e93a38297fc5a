"""Who may write in a run: never the world; a whole group where the site profile names one.

A shared run's folder is setgid and writable for its group, and so is what is made in it: a colleague can go on with it.
The folder itself says so, to every command and every task.
"""

import grp
import os
import stat
from pathlib import Path

from svdstory.jobs.study.store import MANIFEST
from svdstory.pipeline.config.strict import InputError


def guard(run: Path | None = None) -> None:
    """Set this process's umask: what it makes is not writable for the world, and is for the run's group if it is shared."""
    mask = os.umask(0o077) | 0o002
    os.umask(mask & ~0o070 if run and is_shared(run) else mask)


def is_shared(run: Path) -> bool:
    mode = run.stat().st_mode
    return bool(mode & stat.S_ISGID and mode & stat.S_IWGRP)


def share(run: Path, group: str) -> None:
    """Give the run to a group of users. Raises InputError for a group that isn't there, or that is not ours to give."""
    try:
        number = grp.getgrnam(group).gr_gid
    except KeyError:
        raise InputError(f"group {group!r} (group: in the site profile): there is no such group here.") from None
    if is_shared(run) and run.stat().st_gid == number:
        return
    for folder, folders, names in os.walk(run):
        try:
            os.chown(folder, -1, number)
            os.chmod(folder, stat.S_IMODE(os.stat(folder).st_mode) | stat.S_ISGID | stat.S_IRWXG)
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be given to the group {group!r} ({error.strerror}). Its owner can, as a member of the "
                "group: ask them to submit with this profile, or choose another folder with --out."
            ) from None
        if MANIFEST in names:  # a finished unit: nobody writes there again
            folders.clear()
