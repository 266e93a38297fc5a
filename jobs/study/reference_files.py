"""RUN/references/<sha256>.<ending>: the reference pictures of a run's plans, copied when a plan is written.

Nodes see them there, and results don't depend on the user's folder. A copy is never replaced; its name says what it holds.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from svdstory.jobs.study.process import Process
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.references import Reference, unchanged

FOLDER = "references"


def placed(prompts: PromptSet, run: Path) -> PromptSet:
    """The set with its pictures where the run keeps them."""
    copies = tuple(one.model_copy(update={"image": str(_copy(one, run))}) for one in prompts.references)
    return prompts.model_copy(update={"references": copies}) if copies else prompts


def copy_references(sets: Iterable[PromptSet], run: Path) -> None:
    """Copy what is not there yet. Raises InputError for a picture that is gone, or has changed since it was hashed."""
    for reference in {one.sha256: one for prompts in sets for one in prompts.references}.values():
        final = _copy(reference, run)
        if final.exists():
            continue
        data = unchanged(Path(reference.image), reference.sha256)
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = final.with_name(f".{final.name}.{Process.here()}")
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.rename(partial, final)
        finally:
            partial.unlink(missing_ok=True)


def _copy(reference: Reference, run: Path) -> Path:
    return run / FOLDER / (reference.sha256 + reference.ending)
