"""Which files are images, by name and by content."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from bottleneck.errors import BadImageError, MissingExtraError, import_extra
from bottleneck.inputs import open_regular

__all__ = ["HEAD", "IMAGE_SUFFIXES", "check_name", "is_image", "kind_of", "reader_of"]

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif"}
)
"""Endings of the formats that can be read."""
_RAW_SUFFIXES = frozenset(
    {".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".srw", ".pef"}
)
_OTHER_SUFFIXES = _RAW_SUFFIXES | {
    *(".jp2", ".j2k", ".jpx", ".jxl", ".psd", ".svg", ".ico", ".tga", ".exr", ".hdr", ".dcm")
}
"""Endings of images that cannot be read: they are listed, rather than taken for other files."""
HEAD = 32
"""Bytes that show an image's format."""
_BRANDS = rb".{4}ftyp(?:.{8})?(?:.{4})*?"
"""How files of the HEIF family begin, up to one of the names of their formats."""
_KINDS = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "GIF": rb"GIF8[79]a",
    "WebP": rb"RIFF.{4}WEBP",
    "PPM": rb"P[1-6](?:\s|#)[\s\d#]",
    "AVIF": _BRANDS + rb"avi[fs]",
    "HEIC": _BRANDS + rb"(?:hei[cmsx]|hev[cmsx]|mif1|msf1)",
    "BMP": rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0",
}
_PATTERNS = {kind: re.compile(pattern, re.DOTALL) for kind, pattern in _KINDS.items()}
_READERS = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "WebP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "PPM": ("PIL.PpmImagePlugin", "PpmImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
}
"""Pillow has more formats, some of which start other programs on the bytes."""
_OTHERS = (
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"8BPS", "Photoshop"),
    (b"v/1\x01", "OpenEXR"),
)


def kind_of(head: bytes) -> str | None:
    """Return an image's format.

    Parameters
    ----------
    head : bytes
        The file, or at least its first 32 bytes.

    Returns
    -------
    str or None
        ``JPEG``, ``PNG``, ``WebP``, ``BMP``, ``TIFF``, ``GIF``, ``PPM``, ``AVIF`` or ``HEIC``; None
        for everything else.
    """
    found = (kind for kind, pattern in _PATTERNS.items() if pattern.match(head[:HEAD]))
    return next(found, None)


def is_image(path: Path) -> bool:
    """Return whether a file looks like an image, by its name or its content.

    Files that look like images and cannot be used have to be reported as bad images.

    Parameters
    ----------
    path : Path
        The file. A folder, pipe or device is an image by its name only.

    Returns
    -------
    bool
    """
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    try:
        with open_regular(path) as file:
            head = file.read(HEAD)
    except OSError:
        return False
    return suffix in _OTHER_SUFFIXES or kind_of(head) is not None


def check_name(path: Path) -> None:
    """Refuse the raw files of cameras, whose content looks like that of a TIFF of a small preview.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    BadImageError
        The file has the ending of a raw file.
    """
    if path.suffix.lower() in _RAW_SUFFIXES:
        raise BadImageError("raw files of cameras cannot be read; convert it to TIFF or JPEG")


def reader_of(data: bytes) -> tuple[str, Any]:
    """Return an image's format, and Pillow's class that reads it.

    Parameters
    ----------
    data : bytes
        The file.

    Returns
    -------
    kind : str
        See `kind_of`.
    reader : type
        Takes an open file; raises whatever it meets in damaged ones.

    Raises
    ------
    BadImageError
        The format is unknown, or the library that reads it is not installed.
    """
    kind = kind_of(data)
    if kind == "HEIC":
        try:
            return kind, import_extra("pillow_heif", "reading HEIC", "pillow-heif").HeifImageFile
        except MissingExtraError as error:
            raise BadImageError(str(error)) from error
    if kind is None:
        other = next((name for start, name in _OTHERS if data.startswith(start)), None)
        raise BadImageError(
            f"{other} is a format that cannot be read; convert it to PNG"
            if other
            else "not an image in a known format"
        )
    module, name = _READERS[kind]
    return kind, getattr(import_module(module), name)
