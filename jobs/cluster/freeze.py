"""A copy of the code beside the run: what was submitted is what runs, whatever is edited while it waits.

RUN/code/<hash>/svdstory/{jobs,pipeline,prompts,slurm,code.json}
"""

import json
import secrets
import shutil
from pathlib import Path

from svdstory.jobs.study import code
from svdstory.jobs.study.store import TAKEN
from svdstory.pipeline.config.strict import InputError


def freeze(run: Path) -> Path:
    """Copy svdstory's own files into the run, once for each content. Returns the folder to put on PYTHONPATH.

    Raises InputError where they cannot be copied there.
    """
    target = run / "code" / code.identity()["hash"]
    if target.is_dir():  # whole: it came by one rename, and goes by one (clean.py)
        return target
    draft = run / "code" / f".{target.name}.{secrets.token_hex(4)}"
    try:
        for name, source in code.files().items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, draft / name)
        (draft / "svdstory" / "__init__.py").touch()  # a package of its own: it hides any installed one entirely
        (draft / "svdstory" / code.RECORD).write_text(json.dumps(code.identity()), encoding="utf-8")
        draft.rename(target)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        if error.errno not in TAKEN:  # else another launcher was quicker with the same content
            raise InputError(
                f"{target.parent}: the code cannot be copied there ({error.strerror}). Nothing was queued. Make room "
                "(`svdstory clean`), or choose another folder with --out."
            ) from None
    return target
