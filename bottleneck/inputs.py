"""Open files to read: regular ones only, without waiting for a pipe or a device."""

import errno
import os
import stat
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from bottleneck.errors import BadImageError

__all__ = ["MAX_BYTES", "check_regular", "check_size", "open_regular", "read_regular"]

MAX_BYTES = 10**9
"""Size of the largest image file that is read by default."""

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""Opening a pipe that nobody writes to would wait for ever, a file never does."""


def check_regular(path: Path) -> os.stat_result:
    """Check that a path leads to a regular file, without opening it.

    Parameters
    ----------
    path : Path
        The file; links are followed.

    Returns
    -------
    os.stat_result
        Its size, among others.

    Raises
    ------
    OSError
        It is a folder, a pipe, a socket or a device, or does not exist.
    """
    return _regular(path, path.stat())


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading.

    Parameters
    ----------
    path : Path
        The file; links are followed.

    Returns
    -------
    binary file

    Raises
    ------
    OSError
        It is a folder, a pipe, a socket or a device, does not exist or cannot be read.
    """
    check_regular(path)
    file = open(os.open(path, _FLAGS), "rb")  # noqa: SIM115, PTH123 - the caller closes it
    try:
        _regular(path, os.fstat(file.fileno()))  # what was there before may have been replaced
    except OSError:
        file.close()
        raise
    return file


def read_regular(path: Path) -> bytes:
    """Read a regular file.

    Parameters
    ----------
    path : Path
        The file; links are followed.

    Returns
    -------
    bytes

    Raises
    ------
    OSError
        As for `open_regular`.
    """
    with open_regular(path) as file:
        return file.read()


def check_size(file: BinaryIO, max_bytes: int) -> None:
    """Refuse a large image file, and an empty one, as those of ``/proc`` claim to be.

    Parameters
    ----------
    file : binary file
        The opened file, at its beginning; if it is in no file of its own, its `size` tells how many
        bytes it has at most, or else its end does.
    max_bytes : int
        Size in bytes of the largest file that is read.

    Raises
    ------
    BadImageError
        The message is the reason.
    """
    size = _size(file)
    if size == 0:
        with suppress(OSError):
            if file.read(1) == b"":
                raise BadImageError("the file is empty")
        raise BadImageError("not a regular file")  # its content is made as it is read
    if size > max_bytes:
        raise BadImageError(
            f"the file has {size:,} bytes, more than the limit of {max_bytes:,}; raise it with "
            f"`max_bytes`"
        )


def _size(file: BinaryIO) -> int:
    """Return the size of a file, or what the archive that it is in says of it."""
    size = getattr(file, "size", None)
    if size is not None:
        return int(size)
    try:
        return os.fstat(file.fileno()).st_size
    except OSError:  # it is in memory, or a part of a file
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        return size


def _regular(path: Path, found: os.stat_result) -> os.stat_result:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a folder", str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return found
