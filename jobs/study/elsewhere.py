"""Pictures made elsewhere, by another model, tool or service: found, keyed by what they hold, and made units of a run.

A unit of theirs is like any other, but for its manifest's `made_elsewhere`: the file that each picture came from, with
its sha256. A cell that lacks a picture is a hole, and its record names the file.
"""

import hashlib
import io
import string
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from svdstory.jobs.study.code import identity
from svdstory.jobs.study.store import Attempt, Store
from svdstory.pipeline.config.brought import OwnPictures
from svdstory.pipeline.config.documents import expanded
from svdstory.pipeline.config.prompt_sets import PromptSet
from svdstory.pipeline.config.strict import InputError, digest

if TYPE_CHECKING:
    from svdstory.jobs.study.plan import Cell, Plan

MISSING = "pictures missing"  # the cause of a hole
DEVICE = "elsewhere"  # stands in the manifest for the device
FIELDS = ("set", "seed", "image")
CELLS = 64  # rows and columns of an imported mask


def pattern_of(pictures: str, masks: str | None, near: Path) -> OwnPictures:
    """The method's record. Raises InputError for a path without {image}, or with what is none of FIELDS."""
    for key, path in {"pictures": pictures, "masks": masks or pictures}.items():
        try:
            found = {field for _, field, _, _ in string.Formatter().parse(path) if field is not None}
        except ValueError as error:
            raise InputError(f"{key}: {path!r}: {error}. Write {{set}}, {{seed}} and {{image}}.", key) from None
        if "image" not in found or found - set(FIELDS):
            raise InputError(
                f"{key}: {path!r}: expected {{image}} in it, and of {{set}}, {{seed}} what the experiment has several "
                f"of; got {', '.join(sorted(found)) or 'none of them'}.",
                key,
            )
    first = pictures.split("{")[0]
    there = (near / expanded(first)).parent if first else near
    return OwnPictures(folder=str((near if there.is_dir() else Path.cwd()).resolve()), pictures=pictures, masks=masks)


@dataclass(frozen=True)
class Source:
    """A cell's files. contents: of each picture, None where it cannot be read; why: picture -> why it cannot."""

    pictures: list[Path]
    masks: list[Path]
    hashes: list[str | None]
    mask_hashes: list[str | None]
    why: dict[Path, str]


def source(method: OwnPictures, name: str, seed: int, images: int) -> Source:
    """The files of one set and seed, each read once for its sha256."""
    pictures = _paths(method, method.pictures, name, seed, images)
    masks = _paths(method, method.masks, name, seed, images) if method.masks else []
    why: dict[Path, str] = {}
    hashes = [_sha256(path, why) for path in pictures]
    return Source(pictures, masks, hashes, [_sha256(path, {}) for path in masks], why)


def source_key(found: Source, prompts: PromptSet, seed: int, schema: int) -> str:
    """What the unit's key is made of: what the files hold, and the prompts that they are judged by."""
    content = {"schema": schema, "set": prompts.with_references(0).content(), "seed": seed, "pictures": found.hashes}
    return digest({**content, "masks": found.mask_hashes} if found.masks else content)


def sources(methods: dict[str, OwnPictures], sets: dict[str, PromptSet], seeds: dict[str, tuple]) -> dict:
    """(set, method, seed) -> its files. Raises InputError where a method has no picture at all, or one for several."""
    found = {}
    for name, method in methods.items():
        check_fields(name, method, sets, seeds)
        places = [(s, seed) for s in sets for seed in seeds[s]]
        with ThreadPoolExecutor(8) as pool:
            read = list(pool.map(lambda at: source(method, *at, len(sets[at[0]].settings)), places))
        if not any(h for one in read for h in one.hashes):
            raise InputError(
                f"method {name}: none of its {sum(len(one.hashes) for one in read)} pictures is there; the first "
                f"would be {read[0].pictures[0]}. Images count from 0; sets are named as `svdstory plan` lists them."
            )
        found |= {(s, name, seed): one for (s, seed), one in zip(places, read)}
    return found


def check_fields(name: str, method: OwnPictures, sets: dict[str, PromptSet], seeds: dict[str, tuple]) -> None:
    """Raises InputError where several cells would be given one and the same picture."""
    several = {"set": len(sets) > 1, "seed": max(map(len, seeds.values())) > 1}
    for path in filter(None, (method.pictures, method.masks)):
        lacking = [field for field, many in several.items() if many and f"{{{field}" not in path]
        if lacking:
            raise InputError(
                f"method {name}: {path}: there are several {lacking[0]}s, and all would be given the same pictures. "
                f"Write {{{lacking[0]}}} into the path, or ask for one {lacking[0]}."
            )


def bring_in(plan: "Plan", store: Store) -> None:
    """Make units of the pictures that are there; a cell that lacks one is recorded as failed, once.

    Raises InputError for a picture that has changed since the plan was made.
    """
    recorded = store.failed() if plan.brought else set()
    for key in plan.units:
        if key in plan.brought and not store.is_finished(key):
            bring_unit(plan, plan.units[key], store, recorded)


def bring_unit(plan: "Plan", cell: "Cell", store: Store, recorded: set[str]) -> None:
    prompts, method = plan.sets[cell.set], plan.methods[cell.method].pictures
    found = source(method, cell.set, cell.seed, len(prompts.settings))
    if not source_key(found, prompts, cell.seed, plan.schema_version).startswith(cell.key):
        raise InputError(f"{found.pictures[0].parent}: its pictures changed while they were read. Ask again.")
    files, why = {}, dict(found.why)
    for i, path in enumerate(found.pictures):
        if path not in why:
            try:
                files[f"{i}.png"] = as_png(path, told(plan, cell, i, path))
            except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: PIL's word for a broken PNG
                why[path] = f"not a picture: {error}"
    if why:
        if cell.key not in recorded:
            lines = [f"{path}: {reason}" for path, reason in why.items()]
            store.record_failure(cell.key, MISSING, "\n".join(lines), Attempt.here())
        return
    masks = read_masks(found.masks)
    if masks is not None:
        files["tensors.safetensors"] = masks
    began = time.time()
    manifest = {
        "set": {"name": cell.set, **prompts.with_references(0).content()},
        "prompts": prompts.prompts,
        "method": {"name": cell.method, **plan.methods[cell.method].switches()},
        "seed": cell.seed,
        "images": len(prompts.settings),
        "made_elsewhere": {
            f"{i}.png": {"file": str(path), "sha256": sha}
            for i, (path, sha) in enumerate(zip(found.pictures, found.hashes))
        },
        "masks_missing": [str(path) for path in found.masks if not path.is_file()],
        "imported": began,
        "device": DEVICE,
        "code": identity(),
    }
    store.publish(cell.key, files, manifest, Attempt.here())


def told(plan: "Plan", cell: "Cell", image: int, path: Path) -> dict[str, str]:
    """What the imported picture tells of itself, in its text chunks."""
    return {
        "prompt": plan.sets[cell.set].prompts[image],
        "seed": str(cell.seed),
        "method": cell.method,
        "set": cell.set,
        "unit": cell.key,
        "image": str(image),
        "note": f"made elsewhere: imported from {path.name}",
    }


def as_png(path: Path, chunks: dict[str, str]) -> bytes:
    """The picture as RGB, as a PNG with text chunks. Raises OSError, ValueError or SyntaxError for what is none."""
    from PIL import Image, ImageOps, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    for key, text in chunks.items():
        info.add_itxt(key, text)
    buffer = io.BytesIO()
    with Image.open(path) as image:
        ImageOps.exif_transpose(image).convert("RGB").save(buffer, format="PNG", pnginfo=info, compress_level=6)
    return buffer.getvalue()


def read_masks(paths: list[Path]) -> bytes | None:
    """masks: (B, CELLS, CELLS) uint8, 1 where at least half of a cell is bright. None if one is missing or unreadable."""
    if not paths:
        return None
    import numpy as np
    from PIL import Image
    from safetensors.numpy import save

    masks = []
    for path in paths:
        try:
            with Image.open(path) as image:
                masks.append(np.asarray(image.convert("L").resize((CELLS, CELLS), Image.Resampling.BOX)) > 127)
        except (OSError, ValueError, SyntaxError):
            return None
    return save({"masks": np.stack(masks).astype(np.uint8)})


def notes_of(plan: "Plan") -> Iterator[str]:
    """What a plan's reader should know of pictures made elsewhere: which are not there, and what lacks masks."""
    for name, method in plan.methods.items():
        if not method.pictures:
            continue
        cells = [(c.set, c.seed, len(plan.sets[c.set].settings)) for c in plan.cells if c.method == name]
        patterns = {"pictures": method.pictures.pictures, "masks": method.pictures.masks}
        lost = {"pictures": "their cells are holes", "masks": "their cells have no numbers of subject and background"}
        for what, pattern in patterns.items():
            paths = [path for at in cells if pattern for path in _paths(method.pictures, pattern, *at)]
            absent = [path for path in paths if not path.is_file()]
            if absent:
                yield f"method {name}: {len(absent)} of {len(paths)} {what} are not there, first {absent[0]}: {lost[what]}"
        if not method.pictures.masks:
            yield f"method {name}: no masks are given, so it has no numbers of the subject or the background alone"


def _paths(method: OwnPictures, pattern: str, name: str, seed: int, images: int) -> list[Path]:
    fields = [{"set": name, "seed": seed, "image": image} for image in range(images)]
    return [Path(method.folder) / expanded(pattern.format(**f)) for f in fields]


def _sha256(path: Path, why: dict[Path, str]) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError as error:
        why[path] = error.strerror.lower() if error.strerror else str(error)
        return None
