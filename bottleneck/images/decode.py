"""Bytes of an image file to upright RGB pixels."""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from bottleneck.errors import BadImageError

__all__ = ["decode"]

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""Pillow knows more, some of which start other programs on the bytes."""


def decode(data: bytes) -> Image.Image:
    """Decode the bytes of an image file to upright 8-bit RGB.

    The EXIF orientation is applied, the first frame of an animation is taken, transparent pixels
    are laid on white, and 16-bit greys are scaled (Pillow's own conversion would clip them).

    Parameters
    ----------
    data : bytes
        A JPEG, PNG, WebP, BMP, TIFF or GIF file.

    Returns
    -------
    PIL.Image.Image
        Mode ``RGB``.

    Raises
    ------
    BadImageError
        The bytes are not an image, are cut off, or declare an absurd size.
    """
    if not data:
        raise BadImageError("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            return _to_rgb(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError:
        raise BadImageError("not an image in a known format") from None
    except BadImageError:
        raise
    except Exception as error:  # whatever a decoder raises on bad bytes is a bad image
        raise BadImageError(str(error).partition("\n")[0] or type(error).__name__) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise BadImageError("32-bit float pixels have no defined range; convert to 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _grey16_to_rgb(np.asarray(image))
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _grey16_to_rgb(grey: np.ndarray) -> Image.Image:
    highest = 65535
    if grey.size and (grey.min() < 0 or grey.max() > highest):
        raise BadImageError("32-bit pixels have no defined range; convert to 8 or 16 bits")
    scaled = (grey.astype(np.uint32) * 255 + highest // 2) // highest
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
