"""What can be known before anything is queued: paths, files, weights.

Prompts, methods and the model are checked by study/plan.py and plan_checks.py, the disk by study/run_folder.py.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from svdstory.jobs.cluster.sites import Site
from svdstory.jobs.study.plan import Plan
from svdstory.jobs.study.run_folder import files_of
from svdstory.jobs.study.store import Store
from svdstory.pipeline.config.strict import InputError

MISREAD = {"%": "Slurm's file name patterns", ":": "PYTHONPATH", "\n": "sbatch", "\\": "Slurm"}


def check(plan: Plan, run: Path, site: Site, scorers: Iterable[str]) -> list[str]:
    """Raises InputError for what would fail; returns notes on what would only be less than was hoped for."""
    check_paths(run, site)
    if not plan.model.note:  # a model that says its images are no pictures takes scorers with random weights too
        check_scorers(scorers)
    return []


def check_paths(run: Path, site: Site) -> None:
    """Raises InputError for a run folder whose path Slurm or Python would misread, or that nodes do not see."""
    for character, reader in MISREAD.items():
        if character in str(run):
            raise InputError(f"{run}: {character!r} in the path would be misread by {reader}. Rename the folder.")
    if site.shared and not run.resolve().is_relative_to(Path(site.shared).expanduser().resolve()):
        raise InputError(
            f"{run}: does not lie in {site.shared}, the folder that nodes see (shared: in the site "
            "profile). Give --out a folder there."
        )


def check_files(plan: Plan, run: Path, tasks: int) -> None:
    """Raises InputError where the file system has no room for what so many tasks would make (inodes)."""
    present = Store(run).present()
    missing = [key for key in plan.units if key not in present]
    needed = files_of(plan, missing, tasks) if missing or tasks else 0
    status = os.statvfs(existing(run))
    if status.f_files and needed > status.f_favail:
        raise InputError(
            f"{run}: {status.f_favail} more files may be made there, up to {needed} are needed for "
            f"{len(missing)} units. Remove some (`svdstory clean`), or choose another folder with --out."
        )


def existing(folder: Path) -> Path:
    """The folder, or its nearest ancestor that exists."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def check_scorers(scorers: Iterable[str]) -> None:
    """Raises InputError for scorers whose weights are not here: GPU hours would end in a report without numbers."""
    from svdstory.pipeline.metrics import staging

    folder = staging.default_folder()
    absent = [name for name in scorers if staging.missing(name, folder)]
    if absent:
        fetch = " ".join(f"--scorer {name}" for name in absent)
        raise InputError(
            f"weights of {len(absent)} scorers are not in {folder}: {', '.join(absent)}. Nothing was queued. Fetch them "
            f"where there is internet: svdstory prefetch {fetch} (SVDSTORY_WEIGHTS names the folder, and nodes must see "
            "it). To make the images alone: --without-metrics; `svdstory score` measures them later."
        )
