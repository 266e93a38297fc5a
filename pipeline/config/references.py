"""Reference pictures: a prompt set's subject, shown. Found, hashed and read the same everywhere. Imports without torch.

What they are for a method: pipeline/sampling/replay.py.
"""

import hashlib
import io
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator, model_validator

from svdstory.pipeline.config.documents import expanded
from svdstory.pipeline.config.strict import InputError, Strict, Text

if TYPE_CHECKING:
    from PIL import Image

MOST = 20  # pictures of one set
PIXELS_AT_MOST = 100_000_000
REFUSED, ENLARGED = 1 / 4, 1 / 2  # of the study's sides: below, a picture is refused, and told of
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".heic", ".avif")


class Reference(Strict):
    """One picture of the subject. Written as a path alone, or with the setting that it shows.

    image: relative to the prompt set's file. sha256 of the file and its size in pixels, (width, height): found when it is
    planned; a unit's key has the hash instead of the path.
    """

    image: Annotated[str, Field(min_length=1)]
    setting: Text = ""
    sha256: str = ""
    pixels: tuple[int, int] | None = None

    @model_validator(mode="before")
    @classmethod
    def _a_path_alone(cls, given: Any) -> Any:
        return {"image": str(given)} if isinstance(given, (str, Path)) else given

    @field_validator("pixels", mode="before")
    @classmethod
    def _a_list_is_a_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value  # strict: no list where a tuple stands

    @property
    def ending(self) -> str:
        return Path(self.image).suffix.lower()

    def near(self, folder: Path) -> "Reference":
        """Named from `folder`."""
        return self.model_copy(update={"image": str(folder.resolve() / expanded(self.image))})

    def content(self) -> dict:
        """What changes pixels."""
        return {"sha256": self.sha256 or self.image, "setting": self.setting}


def is_picture(text: Any) -> bool:
    """Whether a text is a picture's path rather than words."""
    return isinstance(text, str) and text.strip().lower().endswith(ENDINGS)


def subject_in_words(given: dict) -> dict:
    """`subject: photo.png` with `concept: corgi`, as subject `a corgi` and the first of the references.

    Raises ValueError without the concept, and for a picture among several subjects.
    """
    subject = given.get("subject")
    if isinstance(subject, (list, tuple)) and any(map(is_picture, subject)):
        raise ValueError(f"subject: got {list(subject)!r}: several subjects are words. Give pictures as `references:`")
    if not is_picture(subject):
        return given
    concept = given.get("concept")
    nouns = [concept] if isinstance(concept, str) else concept
    if not isinstance(nouns, (list, tuple)) or not nouns or not all(isinstance(one, str) and one for one in nouns):
        raise ValueError(
            f"subject: got the picture {subject!r} without a word for what it shows, which prompts and masks need. "
            f"Write two lines: `subject: {subject}` and `concept: corgi` (the noun of your subject)"
        )
    more = given.get("references") or ()
    more = [more] if isinstance(more, (str, dict, Path, Reference)) else list(more)
    words = " and ".join(f"{'an' if noun.strip()[:1].lower() in 'aeiou' else 'a'} {noun.strip()}" for noun in nouns)
    return given | {"subject": words, "references": [subject.strip(), *more]}


def located(references: Iterable[Reference], size: tuple[int, int]) -> tuple[tuple[Reference, ...], list[str]]:
    """The same with absolute paths, hashes and sizes; and a note on each that will be enlarged much.

    size: (width, height) of the study. Raises one InputError for all that is wrong: a file that is missing or no picture,
    too small or too large, changed since it was hashed, or there twice.
    """
    found, notes, wrong, seen = [], [], [], {}
    for reference in references:
        try:
            path = Path.cwd() / expanded(reference.image)
            image, sha256 = _opened(path, reference.sha256)
            share = min(image.width / size[0], image.height / size[1])
            if share < REFUSED:
                least = " × ".join(str(round(side * REFUSED)) for side in size)
                why = f"{image.width} × {image.height} pixels, expected at least {least} for a study of "
                raise _refused(path, f"{why}{size[0]} × {size[1]}: take a larger picture, or a smaller `size`")
            if share < ENLARGED:
                notes.append(
                    f"reference {path.name} has {image.width} × {image.height} pixels: it will be enlarged and soft"
                )
            if sha256 in seen:
                raise _refused(path, f"the same picture as {seen[sha256]}: leave one of them out")
            seen[sha256] = path
            found.append(
                reference.model_copy(
                    update={"image": str(path), "sha256": sha256, "pixels": (image.width, image.height)}
                )
            )
        except InputError as error:
            wrong.append(str(error))
    if wrong:
        raise InputError("\n".join(wrong), key="references")
    return tuple(found), notes


def read_picture(reference: Reference, size: tuple[int, int]) -> "Image.Image":
    """RGB, of exactly `size`: turned as its EXIF says, its profile's colours in sRGB, transparency over white, the
    centre cropped to the study's aspect, resized by Lanczos. Raises InputError, also for a file that has changed since
    it was hashed."""
    from PIL import Image, ImageOps

    image, _ = _opened(Path.cwd() / expanded(reference.image), reference.sha256)
    return ImageOps.fit(_in_srgb(image), size, Image.Resampling.LANCZOS)


def unchanged(path: Path, sha256: str) -> bytes:
    """The file's content. Raises InputError where it cannot be read, or is not what was hashed (where it was)."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _refused(path, f"cannot be read ({error.strerror}): check the path") from None
    found = hashlib.sha256(data).hexdigest()
    if sha256 and found != sha256:
        why = f"changed since the plan: its sha256 is {found[:12]}..., the plan's {sha256[:12]}..."
        raise _refused(path, f"{why}. Put the old file back, or make another run (--out) with the new one")
    return data


def _opened(path: Path, sha256: str) -> tuple["Image.Image", str]:
    """The decoded picture, upright, and the file's hash."""
    from PIL import Image, ImageOps

    data = unchanged(path, sha256)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is ours, and told of
            image = Image.open(io.BytesIO(data))
        if image.width * image.height > PIXELS_AT_MOST:
            raise Image.DecompressionBombError
        if getattr(image, "is_animated", False) and image.format != "MPO":  # a phone's: its first is the photo
            raise _refused(path, f"animated ({image.n_frames} pictures): save one of them as PNG or JPEG")
        return ImageOps.exif_transpose(image), hashlib.sha256(data).hexdigest()
    except Image.DecompressionBombError:
        raise _refused(path, f"over {PIXELS_AT_MOST // 10**6} megapixels: make it smaller first") from None
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # SyntaxError: PIL's word for a broken PNG
        said = "cut off" if "truncated" in str(error) else "not a picture that can be read"
        raise _refused(path, f"{said} ({error}): save it again as PNG or JPEG") from None


def _in_srgb(image: "Image.Image") -> "Image.Image":
    """RGB of 8 bits in sRGB's colours, what is transparent over white. A profile that is broken counts as none."""
    import numpy as np
    from PIL import Image, ImageCms

    profile, alpha = image.info.get("icc_profile"), None
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
    if image.mode.startswith("I"):  # 16 bits of grey, which convert() would clip
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    image = image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")
    if profile:
        try:
            own, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
            image = ImageCms.profileToProfile(image, own, srgb, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            pass
    over = Image.new("RGB", image.size, "white")
    over.paste(image.convert("RGB"), mask=alpha)
    return over


def _refused(path: Path, why: str) -> InputError:
    return InputError(f"reference {path}: {why}.", key="references")
