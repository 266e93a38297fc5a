"""What can be known before anything is queued: paths, files, weights.

Prompts, methods and the model are checked by plan.py, the disk by run.py.
"""

import os
from pathlib import Path

from svdstory.jobs.cluster.sites import Site
from svdstory.jobs.study.plan import Plan
from svdstory.jobs.study.store import Store
from svdstory.pipeline.config.strict import InputError

FILES_A_TASK = 5
MISREAD = {"%": "Slurm's file name patterns", ":": "PYTHONPATH", "\n": "sbatch", "\\": "Slurm"}


def check(plan: Plan, run: Path, site: Site) -> list[str]:
    """Raises InputError for what would fail; returns notes on what would only be less than was hoped for."""
    check_paths(run, site)
    check_files(plan, run)
    return unstaged_scorers(plan)


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


def check_files(plan: Plan, run: Path) -> None:
    """Raises InputError where the file system has no room for the run's files (inodes)."""
    present = Store(run).present()
    missing = [cell for key, cell in plan.units.items() if key not in present]
    needed = sum(len(plan.sets[cell.set].settings) + 2 for cell in missing) + FILES_A_TASK * len(missing)
    status = os.statvfs(existing(run))
    if status.f_files and needed > status.f_favail:
        raise InputError(
            f"{run}: {status.f_favail} more files may be made there, up to {needed} are needed for "
            f"{len(missing)} units. Remove some (`svdstory clean`), or choose another folder with --out."
        )


def existing(folder: Path) -> Path:
    """The folder, or its nearest ancestor that exists."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def unstaged_scorers(plan: Plan) -> list[str]:
    """Scorers whose weights are not here: the reduce job would leave them out."""
    from svdstory.pipeline.metrics import staging

    folder, notes = staging.default_folder(), []
    for name in plan.scorers:
        if staging.missing(name, folder):
            notes.append(
                f"scorer {name}: its weights are not in {folder}; the reduce job would leave it out. "
                f"Fetch them first: svdstory prefetch --scorer {name}"
            )
    return notes
