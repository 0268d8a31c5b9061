"""Compare images: those of different splits that look alike, and a set with the one before."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from bottleneck.arguments import checked
from bottleneck.errors import BadImageError, DataError, MissingExtraError, UsageError
from bottleneck.images.items import SPLITS, ImageItem, in_threads, read_file, same_images
from bottleneck.images.pixels import decode
from bottleneck.images.sets import ImageSet
from bottleneck.inputs import open_regular
from bottleneck.records import RejectedImage
from bottleneck.sources import location

__all__ = [
    "NearDuplicate",
    "NearDuplicates",
    "Replacement",
    "check_replaceable",
    "find_near_duplicates",
    "folder_of",
    "replacement_of",
]

_MOST = 1000
_DISTANCE = 4
"""Maximum number of differing bits, of 64, between the hashes of a pair."""
_HEADER = b'"path","digest"'


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


@dataclass(frozen=True)
class Replacement:
    """How an image set differs from the one of the same name in the cache.

    Attributes
    ----------
    before, gone : int
        Number of different images in the old set, and of those that the new one lacks.
    folders : tuple of str
        The folder of the old set's images, and that of the new one's; empty without one.
    """

    before: int
    gone: int
    folders: tuple[str, str]

    @property
    def is_other(self) -> bool:
        """Whether the new set is another one, rather than a newer version of the old one."""
        old, new = self.folders
        return self.gone > self.before // 2 or (self.gone > 0 and old != new)


def check_replaceable(file: Path) -> None:
    """Check that an image set may be written to a file.

    Parameters
    ----------
    file : Path
        The file in ``sets/``, which need not exist.

    Raises
    ------
    UsageError
        There is a file that is no image set.
    """
    try:
        with open_regular(file) as stream:
            beginning = stream.read(2**10).strip(b"\0")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:
        beginning = b"?"
    if beginning and not beginning.startswith(_HEADER):
        raise UsageError(
            f"{str(file)!r} is no image set that 'bottleneck extract' wrote; move it to another "
            f"folder, or give another name with `image_set`"
        )


def replacement_of(file: Path, images: ImageSet) -> Replacement | None:
    """Compare an image set with the one that it is to replace.

    Parameters
    ----------
    file : Path
        The file of the old set, which need not exist.
    images : ImageSet
        The new set.

    Returns
    -------
    Replacement or None
        None if there is no old set that can be read.
    """
    try:
        old = ImageSet.read_csv(file)
    except DataError:
        return None
    before = {item.digest for item in old.items}
    there = {item.digest for item in (*images.items, *images.left_out)}
    gone = before - same_images(before, there)
    folders = str(folder_of(old) or ""), str(folder_of(images) or "")
    return Replacement(len(before), len(gone), folders)


def folder_of(images: ImageSet) -> Path | None:
    """Return the folder that all images of a set are in.

    Parameters
    ----------
    images : ImageSet
        The set.

    Returns
    -------
    Path or None
        None if some paths are absolute, and others are not.
    """
    try:
        folder = os.path.commonpath([Path(item.path).parent for item in images.items])
    except ValueError:  # or they are on different drives
        return None
    return location(folder)
