"""JPEG files: fast decoding, and files that lack only their end marker."""

import re
import struct

import numpy as np
import simplejpeg
from PIL import Image

__all__ = ["decode_jpeg", "with_end"]

_END = b"\xff\xd9"
_SCAN, _SEQUENTIAL, _PROGRESSIVE = 0xDA, {0xC0, 0xC1}, 0xC2
_LAST = 63
"""Number of the last coefficient of a block; 0 is the first."""
_BARE = {0x01, *range(0xD0, 0xD9)}
"""Markers without a length."""
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
"""A marker that ends the data of a scan."""


def decode_jpeg(data: bytes, mode: str, enough: tuple[int, int] = (0, 0)) -> np.ndarray | None:
    """Decode a colour or grey JPEG.

    Parameters
    ----------
    data : bytes
        The file.
    mode : str
        The mode in which Pillow opens it.
    enough : (int, int)
        Minimum height and width as stored: the image is decoded at the smallest eighth of its size
        that is at least as large. Full size by default.

    Returns
    -------
    np.ndarray or None
        uint8 of shape (height, width, 3), as stored; None if Pillow has to decode or reject it.
    """
    if mode not in {"RGB", "L"}:
        return None
    height, width = enough
    try:
        found: np.ndarray = simplejpeg.decode_jpeg(data, min_height=height, min_width=width)
    except ValueError:  # also for a mere warning, where Pillow knows better
        return None
    return found


def with_end(data: bytes, opened: Image.Image) -> bytes | None:
    """Return a JPEG that lacks nothing but its end marker, with it.

    Parameters
    ----------
    data : bytes
        The file.
    opened : PIL.Image.Image
        The same, as Pillow opens it.

    Returns
    -------
    bytes or None
        None if the file has an end marker, or lacks more.
    """
    ended = data + _END
    if data.endswith(_END) or not _has_all_scans(data):
        return None
    try:  # libjpeg warns of data that ends too soon
        simplejpeg.decode_jpeg(ended, "CMYK" if opened.mode == "CMYK" else "RGB")
    except ValueError:
        return None
    return ended


def _has_all_scans(data: bytes) -> bool:
    """Return whether a JPEG has begun each scan, so that all coefficients are known exactly."""
    place, lacking = 2, set[tuple[int, int]]()
    try:
        while found := _MARKER.match(data, place):
            marker, place = found[1][0], found.end()
            if marker in _BARE:
                continue
            (length,) = struct.unpack_from(">H", data, place)
            content = data[place + 2 : place + length]
            if marker in _SEQUENTIAL or marker == _PROGRESSIVE:
                components = content[6::3]
                lacking = {(each, number) for each in components for number in range(_LAST + 1)}
            place += length
            if marker == _SCAN:
                count = content[0]
                first, last, depth = content[1 + 2 * count : 4 + 2 * count]
                if depth % 16 == 0:  # the lowest bit is sent
                    band = range(first, last + 1)
                    sent = content[1 : 1 + 2 * count : 2]
                    lacking -= {(each, number) for each in sent for number in band}
                following = _MARKER.search(data, place)
                if following is None:
                    return not lacking
                place = following.start()
    except (struct.error, IndexError, ValueError):
        return False
    return False
