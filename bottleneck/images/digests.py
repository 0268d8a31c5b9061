"""Digests of image files, which identify them in the cache."""

import hashlib
import io
from pathlib import Path
from typing import BinaryIO

from bottleneck.errors import BadImageError
from bottleneck.images.headers import png_bits, tiff_header
from bottleneck.images.kinds import HEAD, kind_of
from bottleneck.inputs import open_regular

__all__ = ["MAX_BYTES", "digest_file", "digest_of", "digests_of_file", "read_checked"]

MAX_BYTES = 10**9
"""Size of the largest image file that is read by default."""
_DECODING = b" decoding 2"
"""Raised with each change of decoded values, and entered into digests of the files concerned."""
_SIXTEEN = 16


def digest_file(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """Return the digest of an image file, see `digest_of`, without holding it in memory.

    Parameters
    ----------
    path : Path
        The file.
    max_bytes : int
        Size in bytes of the largest file that is read.

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    BadImageError
        The file is not a regular one, is empty or larger than `max_bytes`, or cannot be read; the
        message is the reason.
    """
    return digests_of_file(path, max_bytes)[0]


def digests_of_file(path: Path, max_bytes: int = MAX_BYTES) -> tuple[str, str]:
    """Return the digest of an image file, and the SHA-256 of its bytes, which is usually the same.

    Parameters
    ----------
    path, max_bytes
        As for `digest_file`.

    Returns
    -------
    (str, str)
        64 hexadecimal digits each.

    Raises
    ------
    BadImageError
        As for `digest_file`.
    """
    try:
        with open_regular(path) as file:
            _check_size(file, max_bytes)
            plain = hashlib.file_digest(file, "sha256").hexdigest()
            return _tagged(plain, file), plain
    except OSError as error:
        raise BadImageError(error.strerror or str(error)) from error


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
    return _tagged(hashlib.sha256(data).hexdigest(), io.BytesIO(data))


def _check_size(file: BinaryIO, max_bytes: int) -> None:
    """Refuse a large file, and an empty one, as those of ``/proc`` claim to be."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if size == 0:
        raise BadImageError("the file is empty")
    if size > max_bytes:
        raise BadImageError(
            f"the file has {size:,} bytes, more than the limit of {max_bytes:,}; raise it with "
            f"`max_bytes`"
        )


def _tagged(digest: str, file: BinaryIO) -> str:
    """Return the digest of a file, whose pixels earlier versions may have decoded otherwise."""
    if not _has_changed(file):
        return digest
    return hashlib.sha256(digest.encode() + _DECODING).hexdigest()


def _has_changed(file: BinaryIO) -> bool:
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


def read_checked(path: Path, digest: str) -> bytes:
    """Read an image file that has not changed.

    Parameters
    ----------
    path : Path
        The file.
    digest : str
        Its digest, from `digest_file`.

    Returns
    -------
    bytes

    Raises
    ------
    BadImageError
        The file is not a regular one, cannot be read or has another digest; the message is the
        reason.
    """
    try:
        with open_regular(path) as file:
            data = file.read()
    except OSError as error:
        raise BadImageError(error.strerror or str(error)) from error
    except MemoryError as error:
        raise BadImageError("not enough memory to read it") from error
    if digest_of(data) == digest:
        return data
    if hashlib.sha256(data).hexdigest() == digest:
        raise BadImageError("an earlier version read other pixels from it; extract it again")
    raise BadImageError("the file changed since its digest was taken")
