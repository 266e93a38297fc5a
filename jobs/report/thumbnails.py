"""Thumbnails of a run's images, made once and kept in one pack for each prompt set: RUN/cache/thumbnails/<set>.zip.

They are keyed by the image's sha256, which is verified when a thumbnail is made: the one time that reduce reads the
image itself. A damaged image never enters a pack, so that every reduce finds it again. A lost or damaged pack costs
time, nothing else.
"""

import base64
import hashlib
import io
import os
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from svdstory.jobs.report.cells import Picture
from svdstory.jobs.study.process import Process

SIDE, QUALITY = 256, 92  # pixels of the longer side; smaller images are kept as they are
PAGE_SIDE, PAGE_QUALITY = 160, 78  # the width of those on the page


class Pack:
    """The thumbnails of one prompt set by their image's sha256, each decoded when it is asked for."""

    def __init__(self, path: Path):
        self._archive = zipfile.ZipFile(path) if path.exists() else None

    def __getitem__(self, sha: str) -> Image.Image:
        """RGB."""
        return Image.open(io.BytesIO(self._archive.read(sha))).convert("RGB")

    def for_page(self, sha: str) -> str:
        """As the page carries it: a data URI."""
        return as_uri(self._archive.read(f"{sha}.webp"))


def complete_pack(pack: Path, pictures: Iterable[Picture]) -> dict[Path, str]:
    """Make the thumbnails that the pack lacks. Returns path -> why, for images that cannot be shown."""
    wanted = {picture.sha256: picture for picture in pictures}
    known = pack_names(pack)
    if all({sha, f"{sha}.webp"} <= known for sha in wanted):
        return {}
    contents, damage = {name: c for name, c in _contents(pack).items() if name.removesuffix(".webp") in wanted}, {}
    new = [picture for sha, picture in wanted.items() if not {sha, f"{sha}.webp"} <= contents.keys()]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # Pillow decodes outside the GIL
        for picture, (made, problem) in zip(new, pool.map(make_thumbnail, new)):
            if problem:
                damage[picture.path] = problem
            contents |= made
    if len(damage) < len(new):
        _write_pack(pack, contents)
    return damage


def pack_names(pack: Path) -> set[str]:
    """The names in the pack: for each image its sha256, and that with .webp."""
    try:
        with zipfile.ZipFile(pack) as archive:
            return set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return set()


def make_thumbnail(picture: Picture) -> tuple[dict[str, bytes], str]:
    """({name: encoded thumbnail}, "") or ({}, why not): the file's content is compared with its sha256."""
    name = picture.path.name
    try:
        content = picture.path.read_bytes()
        if hashlib.sha256(content).hexdigest() != picture.sha256:
            return {}, f"{name}: content differs from its sha256"
        image = Image.open(io.BytesIO(content)).convert("RGB")
    except OSError as error:
        return {}, f"{name}: {error.strerror or 'not a readable image'}"
    if max(image.size) > SIDE:
        buffer = io.BytesIO()
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
        image.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
        content = buffer.getvalue()
    return {picture.sha256: content, f"{picture.sha256}.webp": webp(image, PAGE_SIDE, PAGE_QUALITY)}, ""


def webp(image: Image.Image, width: int, quality: int) -> bytes:
    """The image as WebP, no wider than `width`."""
    if image.width > width:
        image = image.resize((width, max(1, round(width * image.height / image.width))), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()


def as_uri(content: bytes) -> str:
    """A WebP as a page carries it."""
    return "data:image/webp;base64," + base64.b64encode(content).decode()


def _contents(pack: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(pack) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return {}


def _write_pack(pack: Path, contents: dict[str, bytes]) -> None:
    pack.parent.mkdir(parents=True, exist_ok=True)
    draft = pack.with_name(f".{pack.name}.{Process.here()}")
    with zipfile.ZipFile(draft, "w") as archive:
        for sha, content in sorted(contents.items()):
            archive.writestr(zipfile.ZipInfo(sha), content)
    os.replace(draft, pack)
