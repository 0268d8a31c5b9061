"""Headers of TIFF, PNG and JPEG files: how pixels are stored, as far as Pillow does not know."""

import io
import re
import struct
from dataclasses import dataclass
from math import prod
from typing import BinaryIO

import simplejpeg
from PIL import Image

from bottleneck.errors import BadImageError

__all__ = ["TiffHeader", "png_bits", "tiff_header", "with_end"]

_SIXTEEN = 16
_NUMBERS = {1: "B", 3: "H", 4: "L", 16: "Q"}
"""Types of whole numbers in TIFF, and how `struct` calls them."""
_MOST_VALUES, _MOST_TAGS = 16, 4096
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 256, 257, 258, 259, 262, 274
_SAMPLES, _MAXIMUM, _PLANAR, _PREDICTOR, _TILE, _FORMAT = 277, 281, 284, 317, (322, 323), 339
_PLAIN_COMPRESSIONS = {1, 2, 3, 4, 5, 6, 7, 8, 32946, 32773, 34925, 50000}
_PREDICTED = {5, 8, 32946, 34925, 50000}
"""Compressions for which libtiff undoes a predictor; it ignores the predictor of others."""
_GREY_INVERTED, _GREY, _RGB, _CMYK, _TURNED = 0, 1, 2, 5, 5
_COLOURS = 3
_END = b"\xff\xd9"
_SCAN, _SEQUENTIAL, _PROGRESSIVE = 0xDA, {0xC0, 0xC1}, 0xC2
_LAST = 63
"""Number of the last coefficient of a block; 0 is the first."""
_BARE = {0x01, *range(0xD0, 0xD9)}
"""Markers without a length."""
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
"""A marker that ends the data of a scan."""


@dataclass(frozen=True, slots=True)
class TiffHeader:
    """What the first page of a TIFF file says of its pixels.

    Attributes
    ----------
    height, width : int
        Size in pixels as stored.
    bits : tuple of int
        Bits of each sample of a pixel.
    formats : set of int
        1 for unsigned numbers, 2 for signed ones, 3 for floating point.
    photometric, planar, compression, predictor, orientation : int
        As in the TIFF specification.
    maximum : int or None
        MaxSampleValue, if it is stated.
    tile : int
        Pixels of a tile; 0 if there are none.
    pages : bool
        Whether there are more pages.
    """

    height: int
    width: int
    bits: tuple[int, ...]
    formats: frozenset[int]
    photometric: int
    planar: int
    compression: int
    predictor: int
    orientation: int
    maximum: int | None
    tile: int
    pages: bool

    @property
    def inverted(self) -> bool:
        """Whether 0 is white."""
        return self.photometric == _GREY_INVERTED

    @property
    def top(self) -> int | None:
        """The value of white in deep pixels; None if the file does not state it."""
        usual = 2 ** self.bits[0] - 1
        if self.maximum is not None and 0 < self.maximum < usual:
            return self.maximum
        return None if self.bits[0] >= _SIXTEEN else usual

    @property
    def deep(self) -> bool:
        """Whether samples have more than 8 bits."""
        return max(self.bits) > 8  # noqa: PLR2004 - bits of a byte

    @property
    def grey(self) -> bool:
        """Whether a pixel is one unsigned number of more than 8 and up to 16 bits."""
        one = len(self.bits) == 1 and self.photometric in {_GREY, _GREY_INVERTED}
        return one and self.deep and self.bits[0] <= _SIXTEEN and self.formats == {1}

    @property
    def supported(self) -> bool:
        """Whether Pillow decodes the samples of such files as they are stored."""
        undone = self.predictor == 1 or (self.predictor == 2 and self.compression in _PREDICTED)  # noqa: PLR2004 - horizontal differences
        return undone and self.formats == {1} and self.compression in _PLAIN_COMPRESSIONS

    @property
    def right(self) -> bool:
        """Whether Pillow's pixels are right: it knows neither ranges nor all inversions."""
        apart = self.planar == 2 and len(self.bits) > 1  # noqa: PLR2004 - planes of samples
        grey = self.photometric in {_GREY, _GREY_INVERTED}
        if not self.supported or (apart and grey):
            return False
        if not self.deep:
            return True
        if set(self.bits) != {_SIXTEEN} or self.top is not None:
            return False
        if len(self.bits) == 1:
            return self.photometric == _GREY
        if apart and self.compression == 1:
            return False
        return self.photometric in ({_RGB} if len(self.bits) == _COLOURS else {_RGB, _CMYK})

    @property
    def turned(self) -> bool:
        """Whether the upright image has the other side up."""
        return self.orientation in range(_TURNED, 9)


def tiff_header(file: BinaryIO) -> TiffHeader:
    """Read the header of a TIFF file.

    Parameters
    ----------
    file : binary file
        The file, at any position.

    Returns
    -------
    TiffHeader

    Raises
    ------
    BadImageError
        The header is damaged.
    """
    try:
        tags, following = _tags(file)
        (samples,) = tags.get(_SAMPLES, (1,))[:1]
        bits = tags.get(_BITS, (1,))
        maximum = tags.get(_MAXIMUM, (None,))
        return TiffHeader(
            height=tags[_HEIGHT][0],
            width=tags[_WIDTH][0],
            bits=bits * samples if len(bits) == 1 else bits,
            formats=frozenset(tags.get(_FORMAT, (1,))),
            photometric=tags.get(_PHOTOMETRIC, (_GREY_INVERTED,))[0],
            planar=tags.get(_PLANAR, (1,))[0],
            compression=tags.get(_COMPRESSION, (1,))[0],
            predictor=tags.get(_PREDICTOR, (1,))[0],
            orientation=tags.get(_ORIENTATION, (1,))[0],
            maximum=maximum[0] if len(set(maximum)) == 1 else None,
            tile=prod(tags.get(side, (0,))[0] for side in _TILE),
            pages=bool(following),
        )
    except (struct.error, KeyError, OSError, OverflowError, ValueError) as error:
        raise BadImageError("its TIFF header is damaged") from error


def _tags(file: BinaryIO) -> tuple[dict[int, tuple[int, ...]], int]:
    """Return the whole numbers of a TIFF's first page, by tag, and where the next page starts."""
    file.seek(0)
    order = "<" if file.read(2) == b"II" else ">"
    big = _unpacked(file, f"{order}H")[0] == 43  # noqa: PLR2004 - BigTIFF
    word, entry = (f"{order}Q", f"{order}HHQ") if big else (f"{order}L", f"{order}HHL")
    if big:
        file.seek(8)
    file.seek(_unpacked(file, word)[0])
    found: dict[int, tuple[int, ...]] = {}
    (count,) = _unpacked(file, f"{order}Q" if big else f"{order}H")
    if count > _MOST_TAGS:
        raise ValueError(count)
    for _ in range(count):
        tag, kind, length = _unpacked(file, entry)
        after = file.tell() + struct.calcsize(word)
        if kind in _NUMBERS:
            form = f"{order}{min(length, _MOST_VALUES)}{_NUMBERS[kind]}"
            if length * struct.calcsize(f"{order}{_NUMBERS[kind]}") > struct.calcsize(word):
                file.seek(_unpacked(file, word)[0])
            if values := _unpacked(file, form):
                found.setdefault(tag, values)
        file.seek(after)
    return found, _unpacked(file, word)[0]


def _unpacked(file: BinaryIO, form: str) -> tuple[int, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


def png_bits(file: BinaryIO) -> tuple[int, int]:
    """Read the depth of a PNG file, and how many of its bits are significant (sBIT).

    Parameters
    ----------
    file : binary file
        The file, at any position.

    Returns
    -------
    (int, int)
        Bits of a sample, and the largest number of bits that its chunk sBIT states for a sample;
        equal if it has none.
    """
    file.seek(24)
    (depth,) = file.read(1) or (0,)
    file.seek(33)  # after the header
    while len(head := file.read(8)) == 8 and head[4:] not in {b"IDAT", b"IEND"}:  # noqa: PLR2004 - length and name
        (length,) = struct.unpack(">L", head[:4])
        if head[4:] == b"sBIT" and 0 < length <= 4:  # noqa: PLR2004 - at most 4 samples
            return depth, min(max(file.read(length), default=depth), depth) or depth
        file.seek(length + 4, io.SEEK_CUR)
    return depth, depth


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
