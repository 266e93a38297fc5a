"""Thumbnails of a run's images, made once and kept in one pack for each prompt set: RUN/cache/thumbnails/<set>.zip.

They are keyed by the image's sha256, which is verified when a thumbnail is made: the one time that reduce reads the
image itself. A damaged image never enters a pack, so that every reduce finds it again. A lost or damaged pack costs
time, nothing else.
"""

import hashlib
import io
import os
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from .places import Picture

SIDE = 256       # pixels of the longer side; smaller images are kept as they are
QUALITY = 92


def complete_pack(pack: Path, pictures: Iterable[Picture]) -> dict[Path, str]:
    """Make the thumbnails that the pack lacks. Returns path -> why, for images that cannot be shown."""
    wanted = {picture.sha256: picture for picture in pictures}
    known = pack_names(pack)
    new = [picture for sha, picture in wanted.items() if sha not in known]
    made, damage = {}, {}
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:       # Pillow decodes outside the GIL
        for picture, (content, problem) in zip(new, pool.map(make_thumbnail, new)):
            if problem:
                damage[picture.path] = problem
            else:
                made[picture.sha256] = content
    if made:
        kept = {sha: content for sha, content in _contents(pack).items() if sha in wanted}
        _write_pack(pack, kept | made)
    return damage


def read_pack(pack: Path) -> dict[str, Image.Image]:
    """sha256 -> thumbnail, RGB."""
    return {sha: Image.open(io.BytesIO(content)).convert("RGB") for sha, content in _contents(pack).items()}


def pack_names(pack: Path) -> set[str]:
    """The sha256 of the images whose thumbnails are there."""
    try:
        with zipfile.ZipFile(pack) as archive:
            return set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return set()


def make_thumbnail(picture: Picture) -> tuple[bytes, str]:
    """(encoded thumbnail, "") or (b"", why not): the file's content is compared with its sha256."""
    name = picture.path.name
    try:
        content = picture.path.read_bytes()
        if hashlib.sha256(content).hexdigest() != picture.sha256:
            return b"", f"{name}: content differs from its sha256"
        image = Image.open(io.BytesIO(content)).convert("RGB")
    except OSError as error:
        return b"", f"{name}: {error.strerror or 'not a readable image'}"
    if max(image.size) <= SIDE:
        return content, ""
    buffer = io.BytesIO()
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    image.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue(), ""


def _contents(pack: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(pack) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return {}


def _write_pack(pack: Path, contents: dict[str, bytes]) -> None:
    pack.parent.mkdir(parents=True, exist_ok=True)
    draft = pack.with_name(f".{pack.name}.{os.uname().nodename}.{os.getpid()}")
    with zipfile.ZipFile(draft, "w") as archive:
        for sha, content in sorted(contents.items()):
            archive.writestr(zipfile.ZipInfo(sha), content)
    os.replace(draft, pack)
