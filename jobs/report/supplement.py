"""A run's supplement: one ZIP with its report, its plan and what each unit was made with, for readers elsewhere."""

import json
import os
import zipfile
from pathlib import Path

from svdstory.jobs.study.plan import Plan, plan_path, read_plan
from svdstory.jobs.study.process import Process
from svdstory.jobs.study.store import MANIFEST, Store
from svdstory.pipeline.config.strict import InputError

PERSONAL = ("attempt", "host")  # of a manifest: where and as what process a unit was made
EPOCH = (1980, 1, 1, 0, 0, 0)  # ZIP's first date: the same run gives the same bytes


def export(run: Path, to: Path, images: bool = False) -> int:
    """Write the ZIP, and with `images` every finished unit's pictures into it. Returns the number of its files.

    Folder and machine names stay out of plan and manifests. Raises InputError for a run without a report, and for a file
    that is there already.
    """
    plan, store = read_plan(plan_path(run)), Store(run)
    if not (run / "report" / "index.html").is_file():
        raise InputError(f"{run}: there is no report yet. Make it: svdstory reduce {run}")
    if to.exists():
        raise InputError(f"{to}: there already. Give another name, or remove it.")
    to.parent.mkdir(parents=True, exist_ok=True)
    draft = to.with_name(f".{to.name}.{Process.here()}")
    try:
        with zipfile.ZipFile(draft, "x") as file:
            _add(file, "plan.json", _json(public(plan)))
            for path in sorted(p for p in (run / "report").rglob("*") if p.is_file() and not p.name.startswith(".")):
                _add(file, f"report/{path.relative_to(run / 'report').as_posix()}", path.read_bytes())
            for key in sorted(store.finished(plan.units)):
                _add_unit(file, store, key, images)
            count = len(file.namelist())
        os.rename(draft, to)
        return count
    finally:
        draft.unlink(missing_ok=True)


def public(plan: Plan) -> dict:
    """The plan without the folders of the machine that it was made on."""
    content = plan.model_dump(mode="json")
    model = content["model"]
    location = Path(model["location"]).name if model["source"] == "folder" else model["location"]
    name = Path(model["name"]).name if model["source"] == "folder" else model["name"]
    content["model"] = {**model, "folder": None, "location": location, "name": name}
    return content | ({"file": Path(content["file"]).name} if content.get("file") else {})


def _add_unit(file: zipfile.ZipFile, store: Store, key: str, images: bool) -> None:
    manifest = store.manifest(key)
    _add(file, f"units/{key}/{MANIFEST}", _json({k: v for k, v in manifest.items() if k not in PERSONAL}))
    for name in sorted(manifest["files"]) if images else ():
        if name.endswith(".png"):
            _add(file, f"units/{key}/{name}", (store.folder(key) / name).read_bytes())


def _json(content: dict) -> bytes:
    return json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True).encode()


def _add(file: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Pictures are packed already: they are stored as they are."""
    entry = zipfile.ZipInfo(name, EPOCH)
    packed = name.endswith((".png", ".webp", ".pdf"))
    file.writestr(entry, content, zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED)
