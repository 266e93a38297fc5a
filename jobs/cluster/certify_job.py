"""`svdstory certify --site`: one job on a node of the cluster.

DIR/certify.sh, certify.log   its script, its words
DIR/code/<hash>               the code that it runs, as it was when it was queued (freeze.py)
"""

import json
import shlex
import time
from pathlib import Path

from svdstory.jobs.cluster.freeze import freeze
from svdstory.jobs.cluster.parameters import options_of_one, python_of, setup_of
from svdstory.jobs.cluster.preflight import check_paths
from svdstory.jobs.cluster.sites import Site
from svdstory.jobs.queue import scheduler
from svdstory.jobs.queue.scheduler import SlurmError
from svdstory.jobs.queue.waiting import wait_while

MINUTES = 60  # at most: the weights may lie on a busy disk
LATE_S = 60.0  # on NFS and Lustre, what a node has written may be seen here so late


def queue(site: Site, folder: Path, words: list[str]) -> str:
    """Queue `svdstory certify WORDS` and return the job's id. Its words go to `log_of(folder)`.

    Raises InputError for a folder that nodes cannot use, and SlurmError where Slurm refuses the job.
    """
    check_paths(folder, site)
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "certify.sh"
    # one task on one GPU: `cpus` and `memory_gb` of the profile are for that
    asks = [f"--cpus-per-task={site.cpus}", *([f"--mem={round(site.memory_gb * 1024)}M"] if site.memory_gb else [])]
    before = setup_of(site, freeze(folder), PYTHONDONTWRITEBYTECODE="1")
    command = f"{python_of(site)} -m svdstory.jobs certify {shlex.join(words)}"
    script.write_text("\n".join(["#!/bin/bash", *before, f"exec {command}", ""]), encoding="utf-8")
    options = [*options_of_one(site, "svdstory-certify", min(site.minutes, MINUTES)), *asks]
    printed = scheduler.ask("sbatch", "--parsable", f"--output={log_of(folder)}", *options, str(script))
    job = scheduler.job_id(printed)
    if job is None:
        raise SlurmError(["sbatch"], f"no job id in what it printed: {printed}")
    return job


def log_of(folder: Path) -> Path:
    return folder / "certify.log"


def wait(job: str) -> None:
    """Until the job has ended. Raises SlurmError where the controller is silent for too long; the job goes on."""
    wait_while(lambda: any(element.live for element in scheduler.queue([job])))


def certificate_of(folder: Path, job: str) -> dict | None:
    """The certificate that this very job wrote, if it did. It has ended; its file may be seen late."""
    end = time.monotonic() + LATE_S
    while True:
        try:
            found = json.loads((folder / "certificate.json").read_text(encoding="utf-8"))
            if found["job"] == job:
                return found
        except (OSError, ValueError):  # none yet
            pass
        if time.monotonic() > end:
            return None
        time.sleep(0.5)
