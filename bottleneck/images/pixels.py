"""Pixels of images: decode files to upright RGB."""

import ctypes
import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import simplejpeg
from PIL import ExifTags, Image

from bottleneck.errors import BadImageError, MissingExtraError, first_line
from bottleneck.images.deep import (
    eight_bits,
    image_of,
    png_samples,
    ppm_samples,
    significant,
    tiff_samples,
)
from bottleneck.images.headers import TiffHeader, png_bits, tiff_header, with_end
from bottleneck.images.kinds import reader_of
from bottleneck.sources import open_source

__all__ = ["MAX_PIXELS", "Decoded", "decode", "decode_whole", "read_size", "rgb_of"]

MAX_PIXELS = 178_956_970
"""Pixels of the largest image that is decoded by default: where Pillow sees an attack, too."""
_TURNED = range(5, 9)
"""Number of the first EXIF orientation that swaps height and width; all later ones do, too."""
_SIXTEEN = 16
_ZSTD = 50000
"""TIFF's compression that some builds of Pillow lack."""
_DEEP_WHITE = 2**16 - 1
_WIDE = 257
"""White of 16 bits, divided by that of 8."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image's pixels, and what its user should know of them.

    Attributes
    ----------
    pixels : np.ndarray
        uint8 of shape (height, width, 3).
    pages : bool
        Whether the file has more pages or frames, of which this is the first.
    brightest : int or None
        About the largest value in an image of 16 bits that does not state its range; None for all
        other images.
    """

    pixels: np.ndarray
    pages: bool = False
    brightest: int | None = None


def _silence_libtiff() -> None:
    """Keep Pillow's libtiff from writing about damaged files to standard error.

    Pillow raises an error for these, as it does without the text. A function to call is set once,
    before any thread decodes; Pillow itself sets the one for warnings, in the same way.
    """
    with suppress(AttributeError, OSError):  # a build of Pillow that does not show its libraries
        library: Any = Image.core  # type: ignore[attr-defined]
        handler = ctypes.CDLL(library.__file__).TIFFSetErrorHandler
        handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        handler(None)


_silence_libtiff()


def decode(
    data: bytes,
    *,
    enough: tuple[int, int] | None = None,
    max_value: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Decode the bytes of an image file to upright 8-bit RGB.

    The EXIF orientation is applied, an animation or a file of several pages gives the first, and
    transparent pixels are blended with white. Pixels of more than 8 bits are scaled by the range
    that the file states (MaxSampleValue of TIFF, sBIT of PNG, the header of PGM), or else by their
    full range. Pillow reads the header; colour and grey JPEGs are decoded by simplejpeg, which
    gives the same pixels faster; variants of TIFF that Pillow decodes wrongly by tifffile, if it is
    installed; and everything else by Pillow, whose limit is raised to `max_pixels`.

    Parameters
    ----------
    data : bytes
        A JPEG, PNG, WebP, BMP, TIFF, GIF, PPM, PGM, PBM, AVIF or, with pillow-heif, HEIC file.
    enough : (int, int), optional
        Minimum height and width of the upright image: a JPEG is decoded at the smallest eighth of
        its size that is at least as large. Full size by default.
    max_value : int, optional
        The value of white in pixels of more than 8 bits, whatever the file states.
    max_pixels : int
        Number of pixels of the largest image that is decoded.

    Returns
    -------
    np.ndarray
        uint8 of shape (height, width, 3).

    Raises
    ------
    BadImageError
        The bytes are not an image, are truncated, or declare more pixels than `max_pixels`; or
        their pixels have no defined range, or need a library that is not installed.
    """
    return decode_whole(data, enough=enough, max_value=max_value, max_pixels=max_pixels).pixels


def decode_whole(
    data: bytes,
    *,
    enough: tuple[int, int] | None = None,
    max_value: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Decoded:
    """Decode an image as `decode` does, and return with it what its user should know.

    Parameters
    ----------
    data, enough, max_value, max_pixels
        As for `decode`.

    Returns
    -------
    Decoded

    Raises
    ------
    BadImageError
        As for `decode`.
    """
    if not data:
        raise BadImageError("the file is empty")
    if Image.MAX_IMAGE_PIXELS is not None:  # so that it neither warns nor refuses before we do
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)
    kind = ""
    try:
        kind, reader = reader_of(data)
        if kind == "TIFF":
            return _decode_tiff(data, reader, max_value, max_pixels)
        with reader(io.BytesIO(data)) as opened:
            _check_pixels(opened.width, opened.height, max_pixels)
            if kind == "JPEG":
                return Decoded(_decode_jpeg(data, opened, enough))
            if kind == "PNG" and data[24] == _SIXTEEN:
                return _decode_deep_png(data, opened, max_value)
            if kind == "PPM" and max_value is not None:
                return _decode_ppm(data, opened, max_value)
            return Decoded(_upright_rgb(opened), _has_pages(opened))
    except (BadImageError, MissingExtraError) as error:
        raise BadImageError(str(error)) from error
    except MemoryError as error:
        raise BadImageError("not enough memory to decode it") from error
    except Exception as error:  # whatever a decoder raises on bad bytes is a bad image
        damaged = "" if isinstance(error, OSError) else f"a damaged or unknown kind of {kind}: "
        raise BadImageError(f"{damaged}{first_line(error)}") from error


def rgb_of(image: Image.Image, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return the pixels of an image of Pillow, of any mode, as upright 8-bit RGB.

    Parameters
    ----------
    image, max_pixels : PIL.Image.Image, int

    Returns
    -------
    np.ndarray
        uint8 of shape (height, width, 3).

    Raises
    ------
    BadImageError
        It has more than `max_pixels`, or its file is damaged.
    """
    _check_pixels(image.width, image.height, max_pixels)
    try:
        return _upright_rgb(image)
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
        if isinstance(file, str | Path):
            with open_source(file) as stream:
                return read_size(stream)
        file.seek(0)
        kind, reader = reader_of(file.read(32))
        file.seek(0)
        if kind == "TIFF":
            header = tiff_header(file)
            height, width, turned = header.height, header.width, header.turned
        else:
            with reader(file) as opened:
                (width, height), turned = opened.size, _orientation(opened) in _TURNED
    except Exception:  # noqa: BLE001 - whatever is wrong, decoding will say it
        return 0, 0
    return (width, height) if turned else (height, width)


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BadImageError(
            f"{width} x {height} pixels are more than the limit of {max_pixels:,}; raise it with "
            f"`max_pixels`"
        )


def _decode_jpeg(data: bytes, opened: Any, enough: tuple[int, int] | None) -> np.ndarray:
    orientation = _orientation(opened)
    height, width = enough or (0, 0)
    least = (width, height) if orientation in _TURNED else (height, width)
    stored = _stored_jpeg(data, opened.mode, least)
    if stored is None and (ended := with_end(data, opened)):
        stored = _stored_jpeg(ended, opened.mode, least)
        if stored is None:
            with type(opened)(io.BytesIO(ended)) as again:
                return _upright_rgb(again)
    return _upright_rgb(opened) if stored is None else _upright(stored, orientation)


def _stored_jpeg(data: bytes, mode: str, enough: tuple[int, int]) -> np.ndarray | None:
    """Decode a colour or grey JPEG at the smallest eighth that is enough; None if Pillow has to."""
    if mode not in {"RGB", "L"}:
        return None
    height, width = enough
    try:
        found: np.ndarray = simplejpeg.decode_jpeg(data, min_height=height, min_width=width)
    except ValueError:  # also for a mere warning, where Pillow knows better
        return None
    return found


def _decode_deep_png(data: bytes, opened: Any, max_value: int | None) -> Decoded:
    """Decode a PNG file of 16 bits."""
    _, bits = png_bits(io.BytesIO(data))
    grey, pages = opened.mode.startswith("I"), _has_pages(opened)
    found = np.asarray(opened)
    colours = found[..., :-1] if opened.mode.endswith("A") else found
    shift = 0 if grey else 8
    fits = found.max(initial=0) <= (2**bits - 1) >> shift  # else it is in the high bits
    if max_value is None and (bits == _SIXTEEN or not fits):
        told = int(colours.max(initial=0)) * (1 if grey else _WIDE)
        return Decoded(_upright_rgb(opened), pages, told if bits == _SIXTEEN else None)
    orientation = _orientation(opened)
    samples = found if grey else png_samples(data)
    image = image_of(eight_bits(samples, max_value or significant(samples, bits)))
    return Decoded(_upright(_rgb(image), orientation), pages)


def _decode_ppm(data: bytes, opened: Any, max_value: int) -> Decoded:
    samples = None if opened.mode == "1" else ppm_samples(data, opened)
    if samples is None or samples.dtype == np.uint8:
        return Decoded(_upright_rgb(opened))
    return Decoded(_rgb(image_of(eight_bits(samples, max_value))))


def _decode_tiff(data: bytes, reader: Any, max_value: int | None, max_pixels: int) -> Decoded:
    header = tiff_header(io.BytesIO(data))
    _check_pixels(header.width, header.height, max_pixels)
    _check_pixels(header.tile, 1, max_pixels)
    right = header.right and not (header.deep and max_value is not None)
    if right or (header.grey and header.supported):
        try:
            with reader(io.BytesIO(data)) as opened:
                opened.load()
            return _with_pillow(opened, header, max_value)
        except SyntaxError:  # Pillow does not know the kind
            pass
        except OSError:
            if header.compression != _ZSTD:
                raise
    image, brightest = tiff_samples(data, header, max_value)
    return Decoded(_upright(_rgb(image), header.orientation), header.pages, brightest)


def _with_pillow(opened: Image.Image, header: TiffHeader, max_value: int | None) -> Decoded:
    """Decode a TIFF file that Pillow has read; deep colours are rounded, deep greys are not."""
    if not header.deep:
        return Decoded(_rgb(opened), header.pages)
    if not header.grey:
        pixels = _rgb(opened)
        return Decoded(pixels, header.pages, int(pixels.max(initial=0)) * _WIDE)
    samples = np.asarray(opened)
    known = max_value or header.top
    stated = "MaxSampleValue" if max_value is None and header.maximum == header.top else ""
    scaled = eight_bits(samples, known or _DEEP_WHITE, inverted=header.inverted, stated=stated)
    brightest = None if known else int(samples.max(initial=0))
    return Decoded(_rgb(image_of(scaled)), header.pages, brightest)


def _orientation(opened: Any) -> int:
    """Return the EXIF orientation; as it is, if EXIF cannot be read."""
    found = 1
    with suppress(Exception):  # whatever it meets in damaged bytes
        found = opened.getexif().get(ExifTags.Base.Orientation, 1)
    return found


def _has_pages(opened: Any) -> bool:
    with suppress(Exception):  # as in bytes that are damaged after the first
        return bool(getattr(opened, "is_animated", False))
    return False


def _upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation."""
    if orientation in {3, 4, 6, 7}:
        stored = stored[::-1]
    if orientation in {2, 3, 7, 8}:
        stored = stored[:, ::-1]
    return np.ascontiguousarray(stored.swapaxes(0, 1) if orientation in _TURNED else stored)


def _upright_rgb(opened: Any) -> np.ndarray:
    opened.load()  # which turns TIFFs upright, and reads all of what a PNG says of itself
    return _upright(_rgb(opened), _orientation(opened))


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return np.array(image_of(eight_bits(np.asarray(image), _DEEP_WHITE)).convert("RGB"))
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        return np.array(Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB"))
    return np.array(image.convert("RGB"))
