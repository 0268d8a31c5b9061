"""Decode the bytes of an image file to upright RGB pixels."""

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from bottleneck.errors import BadImageError, first_line

__all__ = ["decode", "read_size"]

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""Pillow has more formats, some of which start other programs on the bytes."""
_TURNED = range(5, 9)
"""Number of the first EXIF orientation that swaps height and width; all later ones do, too."""


def decode(data: bytes, *, enough: tuple[int, int] | None = None) -> np.ndarray:
    """Decode the bytes of an image file to upright 8-bit RGB.

    The EXIF orientation is applied, an animation gives its first frame, transparent pixels are
    blended with white, and 16-bit greys are scaled (Pillow's own conversion would clip them).
    Pillow reads the header; colour and grey JPEGs are decoded by simplejpeg, which gives the same
    pixels faster, and everything else by Pillow.

    Parameters
    ----------
    data : bytes
        A JPEG, PNG, WebP, BMP, TIFF or GIF file.
    enough : (int, int), optional
        Minimum height and width of the upright image: a JPEG is decoded at the smallest eighth of
        its size that is at least as large. Full size by default.

    Returns
    -------
    np.ndarray
        uint8 of shape (height, width, 3).

    Raises
    ------
    BadImageError
        The bytes are not an image, are truncated, or declare an absurd size.
    """
    if not data:
        raise BadImageError("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            pixels = _decode_jpeg(data, opened, enough)
            return np.array(_to_rgb(ImageOps.exif_transpose(opened))) if pixels is None else pixels
    except UnidentifiedImageError:
        raise BadImageError("not an image in a known format") from None
    except Exception as error:  # whatever a decoder raises on bad bytes is a bad image
        raise BadImageError(first_line(error)) from error


def read_size(file: str | Path | BinaryIO) -> tuple[int, int]:
    """Read the size of an upright image from its header, without decoding pixels.

    Parameters
    ----------
    file : str, Path or binary file
        The image.

    Returns
    -------
    (int, int)
        Height and width; 0, 0 if the header cannot be read, which decoding will report.
    """
    try:
        with Image.open(file, formats=_FORMATS) as opened:
            turned = _orientation(opened) in _TURNED
            return opened.size if turned else (opened.height, opened.width)
    except Exception:  # noqa: BLE001 - whatever is wrong, decoding will say it
        return 0, 0


def _decode_jpeg(
    data: bytes, opened: Image.Image, enough: tuple[int, int] | None
) -> np.ndarray | None:
    """Return a JPEG's pixels; None if Pillow has to decode or reject it."""
    if opened.format not in {"JPEG", "MPO"} or opened.mode not in {"RGB", "L"}:
        return None
    orientation = _orientation(opened)
    least = {}
    if enough is not None:
        height, width = reversed(enough) if orientation in _TURNED else enough
        least = {"min_height": height, "min_width": width}
    try:
        stored: np.ndarray = simplejpeg.decode_jpeg(data, **least)
    except ValueError:  # also for a mere warning, where Pillow knows better
        return None
    return np.ascontiguousarray(_upright(stored, orientation))


def _orientation(opened: Image.Image) -> int:
    found: int = opened.getexif().get(ExifTags.Base.Orientation, 1)
    return found


def _upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation."""
    if orientation in {3, 4, 6, 7}:
        stored = stored[::-1]
    if orientation in {2, 3, 7, 8}:
        stored = stored[:, ::-1]
    return stored.swapaxes(0, 1) if orientation in _TURNED else stored


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
