"""Pixels of images: decode files to upright RGB, and find images that look alike."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import BinaryIO

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from bottleneck.arguments import checked
from bottleneck.errors import BadImageError, DataError, MissingExtraError, first_line
from bottleneck.images.find import SPLITS, ImageItem, in_threads, read_file
from bottleneck.images.sets import ImageSet
from bottleneck.records import RejectedImage

__all__ = ["NearDuplicate", "NearDuplicates", "decode", "find_near_duplicates", "read_size"]

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""Pillow has more formats, some of which start other programs on the bytes."""
_TURNED = range(5, 9)
"""Number of the first EXIF orientation that swaps height and width; all later ones do, too."""
_MOST = 1000
_DISTANCE = 4
"""Maximum number of differing bits, of 64, between the hashes of a pair."""


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
    height, width = enough or (0, 0)
    if orientation in _TURNED:
        height, width = width, height
    try:
        stored: np.ndarray = simplejpeg.decode_jpeg(data, min_height=height, min_width=width)
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


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """A pair of similar images in different splits.

    Attributes
    ----------
    first, second : str
        Paths of the images.
    splits : tuple of str
        Splits of the images.
    distance : int
        Number of bits, of 64, in which their perceptual hashes differ.
    """

    first: str
    second: str
    splits: tuple[str, str]
    distance: int


@dataclass(frozen=True)
class NearDuplicates:
    """The result of a search for near-duplicates.

    Attributes
    ----------
    count : int
        Number of all pairs.
    pairs : list of NearDuplicate
        The most similar pairs, at most 1,000.
    unread : list of RejectedImage
        Images that could not be read.
    """

    count: int
    pairs: list[NearDuplicate]
    unread: list[RejectedImage]


@checked
def find_near_duplicates(
    images: ImageSet, *, progress: Callable[[str, int, int], None] | None = None
) -> NearDuplicates:
    """Find images in different splits that look alike: resized, recompressed or retouched.

    The measure is ImageHash's ``phash``: the signs of the lowest frequencies of the discrete cosine
    transform, relative to their median. Images with little structure look alike to it: judge the
    pairs by eye.

    Parameters
    ----------
    images : ImageSet
        Images with splits; their files are read.
    progress : callable, optional
        Called with ``"near duplicates"``, the number of images done and their total.

    Returns
    -------
    NearDuplicates

    Raises
    ------
    MissingExtraError
        ImageHash is not installed.
    DataError
        The images have no splits.
    """
    if find_spec("imagehash") is None:
        raise MissingExtraError(
            "near-duplicates need ImageHash, which is not installed; run 'pip install imagehash'"
        )
    if not images.labelled:
        raise DataError(
            f"image set {images.name!r} has no splits to compare; leave `near_duplicates` out"
        )
    distinct = list({(item.digest, item.split): item for item in images.items}.values())
    found: dict[ImageItem, int | RejectedImage] = {}
    report = progress or (lambda *_: None)
    report("near duplicates", 0, len(distinct))
    for item, result in zip(distinct, in_threads(_hash, distinct), strict=True):
        found[item] = result
        report("near duplicates", len(found), len(distinct))
    unread = [each for each in found.values() if isinstance(each, RejectedImage)]
    hashes = {item: each for item, each in found.items() if isinstance(each, int)}
    count, closest = _close_pairs(list(hashes), np.array(list(hashes.values()), np.uint64))
    return NearDuplicates(count, closest, unread)


def _close_pairs(items: list[ImageItem], hashes: np.ndarray) -> tuple[int, list[NearDuplicate]]:
    """Return the number of pairs in different splits with close hashes, and the closest pairs."""
    splits = np.array([item.split for item in items])
    digests = np.array([item.digest for item in items])
    count, closest = 0, np.empty((0, 3), int)
    for first, second in combinations(SPLITS, 2):
        others = np.flatnonzero(splits == second)
        theirs = hashes[others]
        for place in np.flatnonzero(splits == first):
            bits = np.bitwise_count(theirs ^ hashes[place])
            close = np.flatnonzero(bits <= _DISTANCE)
            close = close[digests[others[close]] != digests[place]]
            if len(close):
                count += len(close)
                pairs = np.column_stack([bits[close], np.full(len(close), place), others[close]])
                both = np.concatenate([closest, pairs])
                closest = both[np.argsort(both[:, 0], kind="stable")[:_MOST]]
    return count, [
        NearDuplicate(items[i].path, items[j].path, (str(splits[i]), str(splits[j])), distance)
        for distance, i, j in closest.tolist()
    ]


def _hash(item: ImageItem) -> int | RejectedImage:
    from imagehash import phash

    try:
        image = decode(read_file(item))
    except BadImageError as error:
        return RejectedImage(item.path, str(error))
    bits = np.packbits(phash(Image.fromarray(image)).hash.reshape(-1))
    return int.from_bytes(bits.tobytes(), "big")
