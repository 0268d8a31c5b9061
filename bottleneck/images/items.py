"""Find image files in folders, read them, and compute their digests."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator

from bottleneck.errors import BadImageError
from bottleneck.images.digests import MAX_BYTES, digest_file, read_checked
from bottleneck.images.kinds import check_name
from bottleneck.records import Digest, RejectedImage, record

__all__ = [
    "SPLITS",
    "ImageItem",
    "digest_all",
    "in_threads",
    "read_file",
    "shown_path",
]

SPLITS = ("train", "val", "test")
_AHEAD = 256
_In = TypeVar("_In")
_Out = TypeVar("_Out")


def _is_text(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError("a text that is not empty and has no NUL character")
    return value


def _weight(value: Any) -> float:
    with suppress(ValueError):
        if 0 <= (weight := float(value)) < inf:
            return weight
    raise ValueError("a number of at least 0, or an empty cell, which means 1")


@dataclass(frozen=True, slots=True)
class ImageItem:
    """One image file of a set; values are checked when a manifest or a saved set is read.

    Attributes
    ----------
    path : str
        Path as found, with forward slashes.
    digest : str
        SHA-256 of the file's bytes, 64 hexadecimal digits; empty until the file has been read.
    label : str or None
        Class of the image, or classes separated by semicolons; None in an unlabelled set.
    split : str or None
        ``"train"``, ``"val"`` or ``"test"``; None in an unlabelled set.
    weight : float
        Sample weight.
    """

    path: Annotated[str, AfterValidator(_is_text)]
    digest: Digest = ""
    label: Annotated[str, AfterValidator(_is_text)] | None = None
    split: Annotated[str, record.among(Literal["train", "val", "test"])] | None = None
    weight: Annotated[float, BeforeValidator(_weight)] = 1.0


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


def read_file(item: ImageItem) -> bytes:
    """Read an image's file.

    Parameters
    ----------
    item : ImageItem
        An image of a set.

    Returns
    -------
    bytes

    Raises
    ------
    BadImageError
        The file cannot be read, or its digest differs from the item's; the message is the reason.
    """
    return read_checked(Path(item.path), item.digest)


def in_threads(
    work: Callable[[_In], _Out],
    items: Iterable[_In],
    *,
    workers: int = 4,
    waiting: int = _AHEAD,
    initializer: Callable[[], None] | None = None,
) -> Generator[_Out]:
    """Call a function on each item in threads, ahead of the reader.

    Parameters
    ----------
    work : callable
        Called with an item.
    items : iterable
        Items in order, read lazily.
    workers : int
        Number of threads.
    waiting : int
        Maximum number of items started before the result of the first is read.
    initializer : callable, optional
        Called in each thread when it starts.

    Yields
    ------
    object
        The result for each item, in order.
    """
    begun: deque[Future[_Out]] = deque()
    pool = ThreadPoolExecutor(workers, initializer=initializer)
    try:
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) > waiting:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def digest_all(
    files: Sequence[ImageItem], max_bytes: int = 0
) -> tuple[tuple[ImageItem, ...], tuple[RejectedImage, ...]]:
    """Return the files with their digests, or as rejected if they cannot be read, in order.

    Parameters
    ----------
    files : sequence of ImageItem
        Images without digests.
    max_bytes : int
        Size of the largest file that is read; 0 for the default of 1 GB.

    Returns
    -------
    items : tuple of ImageItem
        Images with digests.
    rejected : tuple of RejectedImage
        Files that could not be read, with the reasons.
    """
    results = list(in_threads(partial(_digest, max_bytes=max_bytes or MAX_BYTES), files))
    items = tuple(result for result in results if isinstance(result, ImageItem))
    rejected = tuple(result for result in results if isinstance(result, RejectedImage))
    return items, rejected


def _digest(found: ImageItem, max_bytes: int) -> ImageItem | RejectedImage:
    try:
        found.path.encode()
        check_name(Path(found.path))
        return replace(found, digest=digest_file(Path(found.path), max_bytes))
    except UnicodeEncodeError:
        return RejectedImage(shown_path(found.path), "the file's name is not UTF-8")
    except BadImageError as error:
        return RejectedImage(found.path, str(error))
