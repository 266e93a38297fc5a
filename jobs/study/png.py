"""Pictures as PNG files that tell of themselves in text chunks."""

import io

from PIL import Image, PngImagePlugin


def png(image: Image.Image, chunks: dict[str, str], level: int = 6) -> bytes:
    """PNG bytes with international text chunks; the same image, chunks and level of zlib give the same bytes."""
    info = PngImagePlugin.PngInfo()
    for key, text in chunks.items():
        info.add_itxt(key, text)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info, compress_level=level)
    return buffer.getvalue()
