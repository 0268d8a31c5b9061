"""Which files are images, by name and by content."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from bottleneck.errors import BadImageError
from bottleneck.extras import import_extra
from bottleneck.sources import open_source, reasons_told

__all__ = [
    "HEAD",
    "IMAGE_SUFFIXES",
    "check_ending",
    "check_kind",
    "is_image",
    "kind_of",
    "reader_of",
    "shown_path",
]

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif"}
)
"""Endings of the formats that can be read."""
_RAW_SUFFIXES = frozenset(
    {".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".srw", ".pef"}
)
_NOTHING = rb"(?!)"
_UNREADABLE = {
    "JPEG 2000": (".jp2 .j2k .jpx", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    "JPEG XL": (".jxl", rb"\0\0\0\x0cJXL |\xff\x0a"),
    "Photoshop": (".psd .psb", rb"8BPS"),
    "GIMP": (".xcf", rb"gimp xcf"),
    "SVG": (".svg", rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*(?:<!DOCTYPE svg|<svg)"),
    "ICO": (".ico .cur", rb"\0\0[\x01\x02]\0[^\0]"),
    "Targa": (".tga", _NOTHING),
    "PCX": (".pcx", _NOTHING),
    "DDS": (".dds", rb"DDS \x7c"),
    "OpenEXR": (".exr", rb"v/1\x01"),
    "Radiance HDR": (".hdr", rb"#\?(?:RADIANCE|RGBE)"),
    "DICOM": (".dcm", rb".{128}DICM"),
    "PDF": ("", rb"%PDF-"),
}
"""Formats that cannot be read: their endings, and how their files begin.

Files with such an ending are listed as bad images, rather than taken for other files.
"""
_OTHERS = {
    suffix: name for name, (suffixes, _) in _UNREADABLE.items() for suffix in suffixes.split()
}
_CANNOT = "{} is a format that cannot be read; convert it to PNG or TIFF"
_NO_IMAGES = {
    "a web page, not an image; download the image again": (
        rb"(?i)(?:\xef\xbb\xbf)?\s*<(?:!doctype )?html"
    ),
    "a pointer of Git LFS, not the image; run 'git lfs pull'": rb"version https://git-lfs",
    "zeros where an image begins; copy or download it again": rb"\0{32}",
    "an archive, not an image; unpack it": rb"PK\x03\x04|\x1f\x8b|Rar!|7z\xbc\xaf",
    "a video, not an image; save its frames as images": (
        rb".{4}ftyp(?:iso|mp4|M4V|qt  )|RIFF.{4}AVI |\x1aE\xdf\xa3"
    ),
}
"""What else has an image's ending by mistake, with what to do, and how such files begin."""
HEAD = 256
"""Bytes that show a file's format."""
_OF_IMAGES = 32
"""Bytes that show the format of an image that can be read."""
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
    found = (kind for kind, pattern in _PATTERNS.items() if pattern.match(head[:_OF_IMAGES]))
    return next(found, None)


def is_image(path: Path, *, content: bool = True) -> bool:
    """Return whether a file looks like an image, by its name or its content.

    Files that look like images and cannot be used have to be reported as bad images.

    Parameters
    ----------
    path : Path
        The file, wherever it lies. A folder, pipe or device is an image by its name only.
    content : bool
        Whether to look at the content of files without an image's ending.

    Returns
    -------
    bool
    """
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    unreadable = suffix in _RAW_SUFFIXES or suffix in _OTHERS
    if not content:
        return unreadable
    try:
        with reasons_told(), open_source(path) as file:
            head = file.read(HEAD) or b""  # None where a file of the system has nothing to say
    except BadImageError:
        return False
    return unreadable or kind_of(head) is not None


def check_ending(suffix: str, head: bytes) -> None:
    """Refuse a file with the ending of a format that cannot be read, unless its content can.

    Raw files of cameras are refused in any case: they begin as a TIFF file of a small preview.

    Parameters
    ----------
    suffix : str
        The file's ending.
    head : bytes
        The file, or at least its first `HEAD` bytes.

    Raises
    ------
    BadImageError
        The format cannot be read.
    """
    if suffix.lower() in _RAW_SUFFIXES:
        raise BadImageError("raw files of cameras cannot be read; convert it to TIFF or JPEG")
    name = _OTHERS.get(suffix.lower())
    if name and kind_of(head) is None:
        raise BadImageError(_CANNOT.format(name))


def check_kind(suffix: str, head: bytes) -> str:
    """Return an image's format; refuse one that cannot be read, and what is no image.

    Parameters
    ----------
    suffix, head
        As for `check_ending`.

    Returns
    -------
    str
        See `kind_of`.

    Raises
    ------
    BadImageError
        What the file is, and what to do.
    """
    check_ending(suffix, head)
    if kind := kind_of(head):
        return kind
    known = {_CANNOT.format(name): start for name, (_, start) in _UNREADABLE.items()} | _NO_IMAGES
    reasons = (each for each, start in known.items() if re.match(start, head, re.DOTALL))
    unknown = "not an image in a known format; convert it to PNG, or remove it"
    raise BadImageError(next(reasons, unknown))


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
        The format is unknown.
    MissingExtraError
        The library that reads it is not installed.
    """
    kind = check_kind("", data)
    if kind == "HEIC":
        return kind, import_extra("pillow_heif", "reading HEIC", "pillow-heif").HeifImageFile
    module, name = _READERS[kind]
    return kind, getattr(import_module(module), name)


def shown_path(path: str) -> str:
    """Return a path whose name may not be UTF-8 as text.

    Parameters
    ----------
    path : str
        The path.

    Returns
    -------
    str
        With a question mark for each letter that is not.
    """
    return path.encode(errors="replace").decode()
