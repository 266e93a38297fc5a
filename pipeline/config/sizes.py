"""What a picture's size changes. Imports without torch."""

TILED_ABOVE = 2 * 1024**2  # pixels: a larger picture is decoded in overlapping tiles of the VAE's training size


def tiled(width: int, height: int) -> bool:
    """Whether a picture is decoded in tiles: memory then doesn't grow with its size (SDXL: 3 GiB a million pixels)."""
    return width * height > TILED_ABOVE
