"""`svdstory certify --site`: one job on a node of the cluster, waited for."""

import json
import shlex
import time
from collections.abc import Callable
from pathlib import Path

from svdstory.jobs.cluster.parameters import options_of_one, python_of, setup_of
from svdstory.jobs.cluster.sites import Site
from svdstory.jobs.queue import scheduler
from svdstory.jobs.queue.scheduler import SlurmError

MINUTES = 60  # at most: the weights may lie on a busy disk
ASK_EVERY_S = 15.0  # a controller has other work


def certify_on(site: Site, folder: Path, words: list[str], say: Callable[[str], None] = print) -> dict | None:
    """Queue `svdstory certify WORDS`, wait until it has ended, return the certificate. None where it wrote none.

    The job goes on without this process. Raises SlurmError where Slurm refuses it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "certify.sh"
    # one task on one GPU: `cpus` and `memory_gb` of the profile are for that
    asks = [f"--cpus-per-task={site.cpus}", *([f"--mem={round(site.memory_gb * 1024)}M"] if site.memory_gb else [])]
    command = f"{python_of(site)} -m svdstory.jobs certify {shlex.join(words)}"
    script.write_text("\n".join(["#!/bin/bash", *setup_of(site), f"exec {command}", ""]), encoding="utf-8")
    options = [*options_of_one(site, "svdstory-certify", min(site.minutes, MINUTES)), *asks]
    log = folder / "certify.log"
    printed = scheduler.ask("sbatch", "--parsable", f"--output={log}", *options, str(script))
    job = scheduler.job_id(printed)
    if job is None:
        raise SlurmError(["sbatch"], f"no job id in what it printed: {printed}")
    say(f"job {job} is queued; its words go to {log}, and it goes on if you leave")
    wait_for(job)
    return certificate_of(folder, job)


def wait_for(job: str) -> None:
    """Until the controller knows of no live job of this id. A controller that is silent for a while is asked again."""
    while True:
        time.sleep(ASK_EVERY_S)
        try:
            if not any(element.live for element in scheduler.queue([job])):
                return
        except SlurmError:
            continue


def certificate_of(folder: Path, job: str) -> dict | None:
    """The certificate that this very job wrote, if it did."""
    try:
        found = json.loads((folder / "certificate.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if found["job"] == job else None
