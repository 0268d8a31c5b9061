"""File names, and atomic writes of small files."""

import hashlib
import io
import json
import os
import secrets
import shutil
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

from bottleneck.inputs import open_regular

__all__ = [
    "SparseFile",
    "atomic_file",
    "atomic_write",
    "move",
    "read_json",
    "remove_stale",
    "sha256_of",
    "signals_held",
    "slug",
    "write_json",
]

_STALE_SECONDS = 3600.0
_PAGE_BYTES = 2**14


def _fsync_folder(folder: Path) -> None:
    """Sync the names in `folder` to disk, if the system supports it."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_folder(folder: Path) -> None:
    """Create a folder and its parents, synced to disk."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _fsync_folder(folder.parent)


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that replaces `path` at the end, so that readers see the old or the new file.

    Content goes to a ``*.partial`` file beside it, is synced to disk, and then renamed.

    Parameters
    ----------
    path : Path
        Path of the file; its folder is created if necessary.

    Yields
    ------
    binary file
        An empty file, for writing and reading.

    Raises
    ------
    OSError
        The folder cannot be written; no temporary file is left behind.
    """
    _make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync_folder(path.parent)


def atomic_write(path: Path, content: str | bytes | Iterable[memoryview]) -> None:
    """Write `content` to `path` completely or not at all, see `atomic_file`.

    Parameters
    ----------
    path : Path
        Path of the file; its folder is created if necessary.
    content : str, bytes or iterable of memoryview
        Text is written as UTF-8; pieces one after the other.

    Raises
    ------
    OSError
        The folder cannot be written; no temporary file is left behind.
    """
    if isinstance(content, str):
        content = content.encode()
    with atomic_file(path) as file:
        file.writelines([content] if isinstance(content, bytes) else content)


def move(path: Path, target: Path) -> None:
    """Move a file or folder within a disk, so that it is always at one of the two places.

    Parameters
    ----------
    path : Path
        The file or folder.
    target : Path
        Its new path; the folder is created if necessary.

    Raises
    ------
    OSError
        One of the folders cannot be written.
    """
    _make_folder(target.parent)
    path.rename(target)
    _fsync_folder(target.parent)
    _fsync_folder(path.parent)


@contextmanager
def signals_held() -> Iterator[None]:
    """Delay SIGINT and SIGTERM until the block is done.

    So a commit in progress is completed. In threads other than the main one, Python runs no signal
    handlers, and nothing is delayed.

    Yields
    ------
    None
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    held = {int(each): handler for each, handler in handlers.items() if callable(handler)}
    for number in held:
        signal.signal(number, lambda *arguments: came.append(arguments))
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        for number, frame in came:
            held[number](number, frame)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as JSON, completely or not at all, with a digest of itself as ``sha256``.

    Parameters
    ----------
    path : Path
        Its folder is made if need be.
    content : mapping of str to Any
        JSON content without a key ``sha256``.

    Raises
    ------
    ValueError
        The content holds nan or inf, which JSON does not have.
    OSError
        The folder cannot be written.
    """
    sealed = {**content, "sha256": _seal(content)}
    atomic_write(path, json.dumps(sealed, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a file from `write_json`, without the digest.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict of str to Any

    Raises
    ------
    ValueError
        The file is damaged or has been edited.
    OSError
        The file cannot be read.
    """
    try:
        with open_regular(path) as file:
            content = json.loads(file.read().decode())
        if not isinstance(content, dict) or content.pop("sha256", None) != _seal(content):
            raise ValueError("its content does not match its digest")
    except RecursionError:
        raise ValueError("its content is nested too deeply") from None
    return content


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def slug(name: str) -> str:
    """Return a name with characters that file names do not allow replaced by ``-``.

    Parameters
    ----------
    name : str
        Any text.

    Returns
    -------
    str
        A text of the same length.
    """
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)


def remove_stale(folder: Path, pattern: str) -> None:
    """Remove leftovers of killed processes from a folder: what has not changed for an hour.

    Parameters
    ----------
    folder : Path
        The folder; it need not exist.
    pattern : str
        Pattern of the names of temporary files, or of folders if it ends with a slash, as for
        `Path.glob`.

    Raises
    ------
    OSError
        A file cannot be removed.
    """
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):  # its owner, or another process, removes it just now
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                if pattern.endswith("/"):
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


class SparseFile(io.RawIOBase):
    """A file in memory in which only written pages take space, for h5py.

    Attributes
    ----------
    end : int
        Size in bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pages = defaultdict[int, bytearray](lambda: bytearray(_PAGE_BYTES))
        self._place = self.end = 0

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        """Set the position and return it."""
        self._place = place + (0, self._place, self.end)[whence]
        return self._place

    def truncate(self, size: int | None = None) -> int:
        """Set the size."""
        self.end = self._place if size is None else size
        return self.end

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer."""
        buffer[:] = b"".join(self.pieces(self._place, self._place + len(buffer)))
        self.seek(len(buffer), io.SEEK_CUR)
        return len(buffer)

    def write(self, data: Any) -> int:
        """Write and return the number of bytes."""
        content = io.BytesIO(data)
        for piece in self.pieces(self._place, self._place + len(data)):
            content.readinto(piece)
        self.end = max(self.end, self.seek(len(data), io.SEEK_CUR))
        return len(data)

    def pieces(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the bytes of a range; unwritten ones are zero."""
        while start < stop:
            number, offset = divmod(start, _PAGE_BYTES)
            length = min(_PAGE_BYTES - offset, stop - start)
            yield memoryview(self._pages[number])[offset : offset + length]
            start += length
