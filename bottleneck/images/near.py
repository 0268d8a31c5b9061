"""Images that look the same, though their bytes differ."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from types import ModuleType

import numpy as np
from PIL import Image

from bottleneck.errors import BadImageError, DataError, MissingExtraError
from bottleneck.images.decode import decode
from bottleneck.images.find import SPLITS, ImageItem, in_threads, read_file
from bottleneck.images.sets import ImageSet
from bottleneck.records import RejectedImage

__all__ = ["NearDuplicate", "NearDuplicates", "find_near_duplicates"]

_PAIRS_AT_A_TIME = 2**22
_MOST = 1000
_DISTANCE = 4
"""Bits, of 64, in which the hashes of a pair may differ at most."""


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """Two images of different splits.

    Attributes
    ----------
    first, second : str
        Their paths.
    splits : tuple of str
        Where they are.
    distance : int
        Bits, of 64, in which their perceptual hashes differ.
    """

    first: str
    second: str
    splits: tuple[str, str]
    distance: int


@dataclass(frozen=True)
class NearDuplicates:
    """What was found.

    Attributes
    ----------
    count : int
        Pairs in all.
    pairs : list of NearDuplicate
        The most alike, of which there are 1,000 at most.
    unread : list of RejectedImage
        Images that could not be looked at.
    """

    count: int
    pairs: list[NearDuplicate]
    unread: list[RejectedImage]


def find_near_duplicates(
    images: ImageSet, *, progress: Callable[[str, int, int], None] | None = None
) -> NearDuplicates:
    """Find images that stand in different splits and look alike: resized, recompressed, retouched.

    The measure is ImageHash's ``phash``: the signs of the lowest frequencies of the discrete cosine
    transform, against their median. Plain images look alike to it: judge the pairs by eye.

    Parameters
    ----------
    images : ImageSet
        Labelled, with splits; its files are read.
    progress : callable, optional
        Called with ``"near duplicates"``, the images done and the images to do.

    Raises
    ------
    MissingExtraError
        ImageHash is not installed.
    DataError
        The images have no splits.
    """
    _imagehash()  # says so before any image is read
    if not images.labelled:
        raise DataError(
            f"image set {images.name!r} has no splits, between which near-duplicates would be; "
            f"leave `near_duplicates` out"
        )
    distinct = list({(item.digest, item.split): item for item in images.items}.values())
    hashes = np.zeros(len(distinct), np.uint64)
    readable = np.zeros(len(distinct), bool)
    unread = []
    if progress:
        progress("near duplicates", 0, len(distinct))
    for place, hashed in enumerate(in_threads(_hash, distinct)):
        if isinstance(hashed, RejectedImage):
            unread.append(hashed)
        else:
            hashes[place], readable[place] = hashed, True
        if progress:
            progress("near duplicates", place + 1, len(distinct))
    splits = np.array([item.split for item in distinct])
    rows = {split: np.flatnonzero(readable & (splits == split)) for split in SPLITS}
    count, closest = 0, np.empty((0, 3), np.int64)
    for first, second in combinations(SPLITS, 2):
        for found in _close(hashes, rows[first], rows[second]):
            close = found[[distinct[i].digest != distinct[j].digest for _, i, j in found]]
            count += len(close)
            both = np.concatenate([closest, close])
            closest = both[np.argsort(both[:, 0], kind="stable")[:_MOST]]
    pairs = [
        NearDuplicate(
            distinct[i].path,
            distinct[j].path,
            (distinct[i].split or "", distinct[j].split or ""),
            bits,
        )
        for bits, i, j in closest.tolist()
    ]
    return NearDuplicates(count, pairs, unread)


def _close(hashes: np.ndarray, rows: np.ndarray, others: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the pairs of two groups whose hashes are close, (m, 3): bits and places."""
    step = max(1, _PAIRS_AT_A_TIME // max(1, len(others)))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        bits = np.bitwise_count(hashes[some][:, None] ^ hashes[others][None])
        i, j = np.nonzero(bits <= _DISTANCE)
        yield np.stack([bits[i, j].astype(np.int64), some[i], others[j]], axis=1)


def _hash(item: ImageItem) -> int | RejectedImage:
    try:
        data = read_file(item)
        if hashlib.sha256(data).hexdigest() != item.digest:
            return RejectedImage(item.path, "the file changed since its extraction")
        image = decode(data)
    except BadImageError as error:
        return RejectedImage(item.path, str(error))
    bits = np.packbits(_imagehash().phash(Image.fromarray(image)).hash.reshape(-1))
    return int.from_bytes(bits.tobytes(), "big")


def _imagehash() -> ModuleType:
    try:
        import imagehash
    except ImportError as error:
        raise MissingExtraError(
            "near-duplicates need ImageHash; install it with "
            "pip install 'bottleneck-features[duplicates]'"
        ) from error
    module: ModuleType = imagehash
    return module
