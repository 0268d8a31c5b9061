"""File names, and atomic writes of small files."""

import errno
import hashlib
import json
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from types import FrameType
from typing import IO, Any

from bottleneck.inputs import open_regular, read_regular

__all__ = [
    "atomic_file",
    "atomic_write",
    "check_writable",
    "fsync_folder",
    "make_folder",
    "move",
    "output_file",
    "read_json",
    "sha256_of",
    "sibling",
    "signals_held",
    "slug",
    "write_json",
]


def fsync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk, if the system supports it.

    Parameters
    ----------
    folder : Path
        The folder.

    Raises
    ------
    OSError
        The folder cannot be read.
    """
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, synced to disk.

    Parameters
    ----------
    folder : Path
        The folder, which may exist.

    Raises
    ------
    OSError
        It cannot be created.
    """
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that replaces `path` at the end, so that readers see the old or the new file.

    A link is replaced, too. Content goes to a ``*.partial`` file beside it, is synced to disk, and
    then renamed.

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
    make_folder(path.parent)
    temporary = sibling(path)
    try:
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


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


@contextmanager
def output_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write what a user has asked for, completely or not at all.

    A link is followed, and a device or a pipe is written to; neither is replaced.

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
        It cannot be written.
    """
    if path.exists() and not path.is_file():
        with TemporaryFile() as file:
            yield file
            file.seek(0)
            with path.open("wb") as target:
                shutil.copyfileobj(file, target)
    else:
        with atomic_file(path.resolve()) as file:
            yield file


def check_writable(path: Path) -> None:
    """Check, before any work, that `output_file` can write a file: a temporary one is made there.

    Parameters
    ----------
    path : Path
        Path of the file; its folder need not exist.

    Raises
    ------
    OSError
        It cannot be written.
    """
    if path.exists() and not path.is_file():
        # A pipe is not opened: who reads it would see its end.
        if path.is_dir() or not os.access(path, os.W_OK):
            number = errno.EISDIR if path.is_dir() else errno.EACCES
            raise OSError(number, os.strerror(number), str(path))
        return
    try:
        folder = path.resolve().parent
        while not folder.exists() and folder.parent != folder:
            folder = folder.parent
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


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
    make_folder(target.parent)
    path.rename(target)
    fsync_folder(target.parent)
    fsync_folder(path.parent)


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
        content = json.loads(read_regular(path).decode())
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


def sibling(path: Path, kind: str = "partial") -> Path:
    """Return a new hidden name beside a file or folder.

    Parameters
    ----------
    path : Path
        The file or folder.
    kind : str
        Its ending: ``partial`` for what is being written or is soon removed.

    Returns
    -------
    Path
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{kind}")
