"""Open files to read: regular ones only, without waiting for a pipe or a device."""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

__all__ = ["check_regular", "open_regular"]

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


def _regular(path: Path, found: os.stat_result) -> os.stat_result:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a folder", str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return found
