"""Open what a path leads to: a file, a member of a container, or an object behind a URL."""

import io
import lzma
import os
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bottleneck.errors import BadImageError, BottleneckError, DataError, PathMissingError
from bottleneck.inputs import check_regular, open_regular
from bottleneck.sources.archives import Tar, Zip
from bottleneck.sources.blobs import Blob, LocalFile, window
from bottleneck.sources.columns import Rows
from bottleneck.sources.members import Container
from bottleneck.sources.objects import SCHEME, read_object
from bottleneck.sources.places import is_remote, location, parted, suffix_of
from bottleneck.sources.ranges import RemoteFile
from bottleneck.sources.remote import known_size, read_remote, stated

__all__ = [
    "container_at",
    "exists",
    "is_container",
    "open_source",
    "read_source",
    "reasons_told",
    "version_of",
]

_AT_ONCE = 2**24
"""Bytes of the largest file behind a URL that is read at once."""
_opened: dict[str, tuple[str, Container]] = {}
_locks: dict[str, threading.Lock] = {}
_lock = threading.Lock()


def is_container(path: Path) -> bool:
    """Return whether a path is that of a file that has images in it, by its ending.

    Parameters
    ----------
    path : Path
        A path or an `Address`; a folder is none, whatever its name.

    Returns
    -------
    bool
    """
    return bool(suffix_of(path)) and not path.is_dir()


def container_at(path: Path, *, fresh: bool = False) -> Container:
    """Return a container, whose contents are listed once in a process, while it does not change.

    Parameters
    ----------
    path : Path
        A file for which `is_container` holds.
    fresh : bool
        Whether to ask a server if the file has changed; one on this machine is always looked at.

    Returns
    -------
    Container

    Raises
    ------
    PathMissingError
        There is no such file.
    DataError
        It is damaged, something else than its ending says, or cannot be read.
    """
    text, remote = str(path), is_remote(path)
    with _lock:
        own = _locks.setdefault(text, threading.Lock())
    with own:
        if remote and text in _opened and not fresh:
            return _opened[text][1]
        try:
            version = stated(text, fresh=fresh).version if remote else _version_here(path)
            if not version or _opened.get(text, ("", None))[0] != version:
                blob = RemoteFile(text) if remote else LocalFile(path)
                _opened[text] = version, _container(path, blob)
        except PathMissingError:
            raise
        except FileNotFoundError as error:
            raise PathMissingError(f"no file {text!r}; correct the path") from error
        except OSError as error:
            raise DataError(f"{text!r} cannot be read: {error.strerror or error}") from error
        except DataError as error:
            if str(error).startswith(repr(text)):
                raise
            raise DataError(f"{text!r} cannot be read: {error}") from error
        return _opened[text][1]


def _version_here(path: Path) -> str:
    return LocalFile.version_of(check_regular(path))


def _container(path: Path, blob: Blob) -> Container:
    suffix = suffix_of(path)
    if suffix in {".parquet", ".arrow"}:
        return Rows(blob, suffix, str(path), lambda text: _beside(path, text))
    return Zip(blob, str(path)) if suffix == ".zip" else Tar(blob, suffix, str(path))


def _beside(table: Path, text: str) -> BinaryIO:
    """Open a file that a row of a table names."""
    path = location(text) if is_remote(text) else table.parent / text
    if parted(str(path)):
        raise BadImageError(f"the row names {text!r}, which is in an archive or a table itself")
    if is_remote(table) and not is_remote(path):
        raise BadImageError(f"the row names {text!r}, but its table is not on this machine")
    return open_source(path)


def exists(path: str | Path) -> bool:
    """Return whether there is something at a path; what is remote is taken to exist.

    Parameters
    ----------
    path : str or Path
        As for `open_source`.

    Returns
    -------
    bool
        Also for links to nothing. A remote image is asked for when it is read: to ask for each
        would take long.
    """
    if is_remote(path):
        return True
    found = parted(str(path))
    if found is None:
        return os.path.lexists(path)
    try:
        return container_at(location(found[0])).has(found[1])
    except (OSError, BottleneckError):
        return False


def version_of(path: str) -> str:
    """Return what a server states to change when an image's bytes do.

    Parameters
    ----------
    path : str
        The path of an image.

    Returns
    -------
    str
        "" if it is on this machine, or the server states nothing. Of an image in a container it is
        that of the container; once an image that a table only names was opened, it is "".
    """
    if not is_remote(path) or path.startswith(SCHEME):
        return ""
    try:
        found = parted(path)
        return container_at(location(found[0])).version if found else stated(path).version
    except BottleneckError:
        return ""


def open_source(path: str | Path) -> BinaryIO:
    """Open an image for reading, wherever it lies.

    Parameters
    ----------
    path : str or Path
        The path of a file, or of a container with a member's name after it.

    Returns
    -------
    binary file
        One that can go back to its beginning.

    Raises
    ------
    OSError
        It does not exist, is not a regular file, or cannot be read.
    BadImageError
        It cannot be read; the message is the reason.
    """
    text = str(path)
    if text.startswith(SCHEME):
        return io.BytesIO(read_object(text))
    found = parted(text)
    if found is None and is_remote(text):
        return _from_server(text)
    if found is None:
        return open_regular(Path(path))
    container, member = found
    try:
        return container_at(location(container)).open(member)
    except KeyError:
        raise FileNotFoundError(2, os.strerror(2), str(path)) from None
    except BadImageError:
        raise
    except BottleneckError as error:
        raise BadImageError(str(error)) from error


def _from_server(url: str) -> BinaryIO:
    """Open a file behind a URL; a small one, and one of unknown size, is read at once."""
    try:
        if known_size(url) > _AT_ONCE:
            blob = RemoteFile(url)
            return window(blob, 0, blob.size)
        return io.BytesIO(read_remote(url))
    except BottleneckError as error:
        raise BadImageError(str(error)) from error


def read_source(path: str | Path) -> bytes:
    """Read an image's bytes, wherever it lies.

    Parameters
    ----------
    path : str or Path
        As for `open_source`.

    Returns
    -------
    bytes

    Raises
    ------
    OSError, BadImageError
        As for `open_source`.
    """
    with open_source(path) as file:
        return file.read()


@contextmanager
def reasons_told() -> Iterator[None]:
    """Turn errors of reading an image into `BadImageError`, whose message is the reason.

    Yields
    ------
    None

    Raises
    ------
    BadImageError
        In place of an `OSError`, an error of an archive, or a `MemoryError`.
    """
    try:
        yield
    except BadImageError:
        raise
    except MemoryError as error:
        raise BadImageError("not enough memory to read it") from error
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise BadImageError(f"its archive is damaged: {error or 'it ends too soon'}") from error
    except OSError as error:
        raise BadImageError(error.strerror or str(error)) from error
