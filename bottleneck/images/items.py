"""Images of a set: their files, and the digests that identify them in the cache."""

import hashlib
import io
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, TypeVar, cast

from pydantic import AfterValidator, BeforeValidator

from bottleneck.errors import BadImageError
from bottleneck.images.headers import png_bits, tiff_header
from bottleneck.images.kinds import HEAD, check_kind, kind_of, shown_path
from bottleneck.inputs import MAX_BYTES, check_size
from bottleneck.records import Digest, RejectedImage, record
from bottleneck.sources import (
    Remembered,
    is_remote,
    location,
    open_source,
    read_source,
    reasons_told,
    remembered,
    version_of,
)

__all__ = [
    "SPLITS",
    "Found",
    "ImageItem",
    "digest_all",
    "digest_of",
    "digests_of_file",
    "in_threads",
    "read_file",
    "readers_for",
    "same_images",
]

SPLITS = ("train", "val", "test")
_DECODING = b" decoding 2"
"""Raised with each change of decoded values, and entered into digests of the files concerned."""
_SIXTEEN = 16
_AHEAD = 256
_CONNECTIONS = 16
_In = TypeVar("_In")
_Out = TypeVar("_Out")
_Check = Callable[[str, bytes], object]


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
    """One image file of a set; values are checked when a table or a saved set is read.

    Attributes
    ----------
    path : str
        Path as found, with forward slashes; or a URL; or that of an archive or a table, with the
        image's name in it at the end.
    digest : str
        The image's name in the cache, 64 hexadecimal digits: SHA-256 of the file's bytes, or, for
        the few files that earlier versions decoded otherwise, of that and a word. Empty until the
        file has been read.
    label : str or None
        Class of the image, or classes separated by semicolons; None in an unlabelled set.
    split : str or None
        ``"train"``, ``"val"`` or ``"test"``; None in an unlabelled set.
    weight : float
        Sample weight.
    sha256 : str or None
        SHA-256 of the file's bytes, if `digest` is another. It ranks images in a split, which must
        not change with the version.
    group : str or None
        What it has in common with other images, such as the patient; None if it stands alone.
    """

    path: Annotated[str, AfterValidator(_is_text)]
    digest: Digest = ""
    label: Annotated[str, AfterValidator(_is_text)] | None = None
    split: Annotated[str, record.among(Literal["train", "val", "test"])] | None = None
    weight: Annotated[float, BeforeValidator(_weight)] = 1.0
    sha256: Digest | None = None
    group: Annotated[str, AfterValidator(_is_text)] | None = None


@dataclass(frozen=True)
class Found:
    """The files of a folder or table; each is in one of the lists, or in a folder that is.

    Attributes
    ----------
    items : list of ImageItem
        Files that look like images, without digests unless a table has them.
    ignored : list of str
        Paths left out, see `ImageSet`.
    rejected : list of RejectedImage
        Links and folders that are not followed.
    notes : list of str
        How the folder or table was read, where it is not obvious.
    """

    items: list[ImageItem] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    rejected: list[RejectedImage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_file(item: ImageItem) -> bytes:
    """Read an image's file, wherever it lies.

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
    with reasons_told():
        data = read_source(item.path)
    if digest_of(data) == item.digest:
        return data
    if hashlib.sha256(data).hexdigest() == item.digest:
        raise BadImageError("an earlier version read other pixels from it; extract it again")
    raise BadImageError("the file changed since its digest was taken")


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
    files: Sequence[ImageItem], max_bytes: int | None = None, check: _Check = check_kind
) -> tuple[tuple[ImageItem, ...], tuple[RejectedImage, ...]]:
    """Return the files with their digests, or as rejected if they cannot be read, in order.

    Parameters
    ----------
    files : sequence of ImageItem
        Images without digests.
    max_bytes : int, optional
        Size of the largest file that is read; by default 1 GB.
    check : callable
        As for `digests_of_file`.

    Returns
    -------
    items : tuple of ImageItem
        Images with digests.
    rejected : tuple of RejectedImage
        Files that could not be read, with the reasons.
    """
    known = remembered()
    digest = partial(_digest, max_bytes=max_bytes or MAX_BYTES, check=check, known=known)
    results = list(in_threads(digest, files, workers=readers_for(files)))
    items = tuple(result for result in results if isinstance(result, ImageItem))
    rejected = tuple(result for result in results if isinstance(result, RejectedImage))
    return items, rejected


def readers_for(items: Iterable[ImageItem], least: int = 4) -> int:
    """Return the number of threads that read images: more if they are behind URLs.

    Parameters
    ----------
    items : iterable of ImageItem
        The images.
    least : int
        The number for images on this machine.

    Returns
    -------
    int
    """
    return max(least, _CONNECTIONS) if any(is_remote(item.path) for item in items) else least


def _digest(
    found: ImageItem, max_bytes: int, check: _Check, known: Remembered | None
) -> ImageItem | RejectedImage:
    try:
        found.path.encode()
        version = version_of(found.path) if known else ""
        if known and (both := _digests_in(known.find(found.path, version))):
            return replace(found, digest=both[0], sha256=both[1])
        digest, plain = digests_of_file(found.path, max_bytes, check)
        item = replace(found, digest=digest, sha256=None if plain == digest else plain)
    except UnicodeEncodeError:
        return RejectedImage(shown_path(found.path), "the file's name is not UTF-8")
    except BadImageError as error:
        return RejectedImage(found.path, str(error))
    if known and version:
        known.add(item.path, version_of(item.path), item.digest, item.sha256)
    return item


def _digests_in(facts: tuple[Any, ...]) -> tuple[str, str | None] | None:
    """Return the digest and the SHA-256 that were remembered, if they are such."""
    match facts:
        case (digest, sha256) if _is_digest(digest):
            return digest, sha256 if _is_digest(sha256) else None
    return None


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")  # noqa: PLR2004 - hexadecimal digits of SHA-256


def digests_of_file(
    path: str | Path, max_bytes: int = MAX_BYTES, check: _Check | None = None
) -> tuple[str, str]:
    """Return an image file's digest and the SHA-256 of its bytes, without holding it in memory.

    Parameters
    ----------
    path : str or Path
        The file, wherever it lies.
    max_bytes : int
        Size in bytes of the largest file that is read.
    check : callable, optional
        Called with the file's ending and its first bytes, to refuse it.

    Returns
    -------
    (str, str)
        64 hexadecimal digits each; usually the same, see `digest_of`.

    Raises
    ------
    BadImageError
        The file is not a regular one, is empty or larger than `max_bytes`, or cannot be read; the
        message is the reason.
    """
    try:
        with reasons_told(), open_source(path) as file:
            check_size(file, max_bytes)
            if check:
                check(location(path).suffix, file.read(HEAD))
                file.seek(0)
            plain = hashlib.file_digest(cast("io.BufferedReader", file), "sha256").hexdigest()
            return _tagged(plain) if _has_changed(file) else plain, plain
    except BadImageError as error:
        if isinstance(error.__cause__, FileNotFoundError) and Path(path).is_symlink():
            raise BadImageError("a link to nothing") from error
        raise


def digest_of(data: bytes) -> str:
    """Return the digest that identifies an image file.

    It is the SHA-256 of the bytes. Only for the few TIFF and PNG files that earlier versions
    decoded to other pixels, it is the SHA-256 of that and of a word, so that features of those
    pixels are never taken for theirs.

    Parameters
    ----------
    data : bytes
        The file.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    plain = hashlib.sha256(data).hexdigest()
    return _tagged(plain) if _has_changed(io.BytesIO(data)) else plain


def same_images(digests: Iterable[str], known: Collection[str]) -> set[str]:
    """Return the digests of known images, also where an earlier version gave them other digests.

    Parameters
    ----------
    digests : iterable of str
        Digests of images.
    known : collection of str
        Digests of the known images, of any version.

    Returns
    -------
    set of str
        Those of `digests` that belong to a known image.
    """
    every = {*known, *map(_tagged, known)}
    return {each for each in digests if each in every or _tagged(each) in every}


def _tagged(digest: str) -> str:
    """Return the digest of a file with this SHA-256 whose pixels are decoded otherwise now."""
    return hashlib.sha256(digest.encode() + _DECODING).hexdigest()


def _has_changed(file: BinaryIO) -> bool:
    """Return whether earlier versions decoded other pixels from a file."""
    file.seek(0)
    kind = kind_of(file.read(HEAD))
    if kind == "PNG":
        depth, significant = png_bits(file)
        return depth == _SIXTEEN != significant
    if kind != "TIFF":
        return False
    try:
        header = tiff_header(file)
    except BadImageError:
        return True
    return not header.right or header.turned  # whose size was taken for that of the other side
