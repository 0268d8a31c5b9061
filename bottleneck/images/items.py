"""Images of a set, and the digests by which they are known."""

import hashlib
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bottleneck.errors import BadImageError
from bottleneck.images.find import FoundFile
from bottleneck.records import RejectedImage

__all__ = ["ImageItem", "digest_all", "in_threads", "read_file"]

_AHEAD = 256
_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, slots=True)
class ImageItem:
    """One image file of a set.

    Attributes
    ----------
    path : str
        As found, with forward slashes.
    digest : str
        SHA-256 of the file's bytes, 64 hexadecimal digits.
    label : str or None
        Its class; None in an unlabelled set.
    split : str or None
        ``"train"``, ``"val"`` or ``"test"``; None in an unlabelled set.
    weight : float
        What it counts where a head is fitted.
    """

    path: str
    digest: str
    label: str | None = None
    split: str | None = None
    weight: float = 1.0


def read_file(item: ImageItem) -> bytes:
    """Return the bytes of an image's file; `BadImageError` where it cannot be read."""
    try:
        return Path(item.path).read_bytes()
    except OSError as error:
        raise BadImageError(error.strerror or str(error)) from error


def in_threads(work: Callable[[_In], _Out], items: Sequence[_In]) -> Iterator[_Out]:
    """Yield what some work makes of each item, in order; only so many of them wait at a time."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        for start in range(0, len(items), _AHEAD):
            yield from pool.map(work, items[start : start + _AHEAD])


def digest_all(
    files: Sequence[FoundFile],
) -> tuple[tuple[ImageItem, ...], tuple[RejectedImage, ...]]:
    """Return the files with their digests, and those that could not be read, in order."""
    results = list(in_threads(_digest, files))
    items = tuple(result for result in results if isinstance(result, ImageItem))
    rejected = tuple(result for result in results if isinstance(result, RejectedImage))
    return items, rejected


def _digest(found: FoundFile) -> ImageItem | RejectedImage:
    path = found.path.as_posix()
    try:
        path.encode()
        mode = found.path.stat().st_mode
        if not stat.S_ISREG(mode):
            return RejectedImage(path, "a folder" if stat.S_ISDIR(mode) else "not a regular file")
        with found.path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except UnicodeEncodeError:
        shown = path.encode(errors="replace").decode()
        return RejectedImage(shown, "the file's name is not UTF-8")
    except OSError as error:
        return RejectedImage(path, error.strerror or str(error))
    return ImageItem(path, digest, found.label, found.split, found.weight)
