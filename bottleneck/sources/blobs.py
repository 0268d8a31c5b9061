"""Bytes that can be read at any place, from several threads: of files, also compressed ones."""

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

from bottleneck.errors import BadImageError
from bottleneck.inputs import check_regular, open_regular

__all__ = ["Blob", "Forward", "LocalFile", "Unpacked", "window"]

_BLOCK = 2**20
_KEPT = 2**25
"""Bytes of blocks that are kept for threads that are behind others."""
_AT_A_TIME = 8
"""So many files keep their blocks: those that were read last."""
_T = TypeVar("_T")


class Blob(Protocol):
    """Bytes that can be read at any place.

    Attributes
    ----------
    size : int
        Number of bytes; -1 where that is known only at their end.
    version : str
        Changes when the bytes do.
    near : bool
        Whether small pieces are read as fast as large ones.
    """

    size: int
    version: str
    near: bool

    def read_at(self, start: int, length: int) -> bytes:
        """Return bytes from a place on, fewer at the end; raise `OSError` if they cannot be read.

        Parameters
        ----------
        start, length : int
            In bytes.

        Returns
        -------
        bytes
        """
        ...


class LocalFile:
    """A file on this machine; see `Blob`.

    Parameters
    ----------
    path : Path
        A regular file. It is opened for each piece, so that none stays open.

    Raises
    ------
    OSError
        It is not a regular file, or does not exist.
    """

    near = True

    def __init__(self, path: Path) -> None:
        self._path = path
        found = check_regular(path)
        self.size, self.version = found.st_size, self.version_of(found)

    @staticmethod
    def version_of(found: os.stat_result) -> str:
        """Return what changes when a file is replaced or written to.

        Parameters
        ----------
        found : os.stat_result
            The file's facts.

        Returns
        -------
        str
        """
        return f"{found.st_dev}-{found.st_ino}-{found.st_size}-{found.st_mtime_ns}"

    def read_at(self, start: int, length: int) -> bytes:
        """Return bytes from a place on, see `Blob`.

        Parameters
        ----------
        start, length : int
            In bytes.

        Returns
        -------
        bytes
        """
        with open_regular(self._path) as file:
            if self.version_of(os.fstat(file.fileno())) != self.version:
                raise BadImageError(f"{str(self._path)!r} changed while it was read")
            file.seek(start)
            return file.read(max(0, min(length, self.size - start)))


class Forward(Generic[_T]):
    """Blocks of what can only be read forward, of which the last ones are kept.

    Readers that are a little ahead of others, or behind, as several threads are, find their blocks
    there. A block farther back costs reading from the last place before it where that can begin.

    Parameters
    ----------
    begin : callable
        Given the number of a block, returns the number of a block from which one can read forward
        to it, and an iterator over the blocks from there.
    weigh : callable
        Returns the bytes of a block; the last blocks of up to `_KEPT` bytes are kept.
    """

    def __init__(
        self, begin: Callable[[int], tuple[int, Iterator[_T]]], weigh: Callable[[_T], int]
    ) -> None:
        self._begin, self._weigh, self._kept = begin, weigh, 0
        self._blocks: OrderedDict[int, _T] = OrderedDict()
        self._next = -1
        self._coming: Iterator[_T] = iter(())
        self._lock = threading.Lock()

    def block(self, number: int) -> _T | None:
        """Return a block; None if it is behind the end.

        What has not been read from for a while, as others were, loses its blocks.

        Parameters
        ----------
        number : int
            Number of the block, from 0.

        Returns
        -------
        object or None
        """
        with _recent_lock:
            if self not in _recent[-1:]:
                _recent[:] = [each for each in _recent if each is not self] + [self]
            older = [_recent.pop(0) for _ in range(len(_recent) - _AT_A_TIME)]
        for each in older:
            each.release()
        with self._lock:
            if number in self._blocks:
                return self._blocks[number]
            start, coming = self._begin(number)
            if not start <= self._next <= number:
                self._next, self._coming = start, coming
            while self._next <= number:
                try:
                    found = next(self._coming)
                except BaseException as error:
                    self._next, self._coming = -1, iter(())
                    if isinstance(error, StopIteration):
                        return None
                    raise
                self._keep(found)
            return self._blocks[number]

    def release(self) -> None:
        """Forget all blocks, and where reading would go on."""
        with self._lock:
            self._blocks.clear()
            self._kept, self._next, self._coming = 0, -1, iter(())

    def _keep(self, block: _T) -> None:
        """Keep the next block, in place of the oldest ones."""
        if (again := self._blocks.pop(self._next, None)) is not None:
            self._kept -= self._weigh(again)
        self._blocks[self._next] = block
        self._next += 1
        self._kept += self._weigh(block)
        while self._kept > _KEPT and len(self._blocks) > 1:
            _, oldest = self._blocks.popitem(last=False)
            self._kept -= self._weigh(oldest)


_recent: list[Forward[Any]] = []
_recent_lock = threading.Lock()


class Unpacked:
    """What a compressed file holds, unpacked as it is read; see `Blob`.

    Parameters
    ----------
    blob : Blob
        The compressed file.
    opener : callable
        Such as `gzip.open`.
    """

    size, near = -1, False

    def __init__(self, blob: Blob, opener: Callable[[BinaryIO], Any]) -> None:
        self.version = blob.version

        def blocks() -> Iterator[bytes]:
            with opener(window(blob, 0, blob.size)) as file:
                yield from iter(partial(file.read, _BLOCK), b"")

        self._blocks = Forward[bytes](lambda _: (0, blocks()), len)

    def read_at(self, start: int, length: int) -> bytes:
        """Return bytes from a place on, see `Blob`.

        Parameters
        ----------
        start, length : int
            In bytes.

        Returns
        -------
        bytes
        """
        found = bytearray()
        while len(found) < length:
            number, skipped = divmod(start + len(found), _BLOCK)
            piece = (self._blocks.block(number) or b"")[skipped : skipped + length - len(found)]
            if not piece:
                break
            found += piece
        return bytes(found)


class _Window(io.RawIOBase):
    def __init__(self, blob: Blob, start: int, size: int) -> None:
        self._blob, self._start, self._place, self.size = blob, start, 0, size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END and self.size < 0:
            raise OSError("its end is not known")
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place}.get(whence, self.size)
        return self._place

    def _read(self, length: int) -> bytes:
        left = length if self.size < 0 else min(length, self.size - self._place)
        found = self._blob.read_at(self._start + self._place, left) if left > 0 else b""
        self._place += len(found)
        return found

    def readinto(self, buffer: Any) -> int:
        found = self._read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def readall(self) -> bytes:
        return self._read(self.size - self._place)


def window(blob: Blob, start: int, size: int) -> io.BufferedReader:
    """Return a part of a blob as a file.

    Parameters
    ----------
    blob : Blob
        Where it is read from, as it is needed.
    start, size : int
        In bytes; a size of -1 means everything from `start` on.

    Returns
    -------
    binary file
        Small files that are not near are read in one piece.
    """
    raw = _Window(blob, start, size)
    ahead = io.DEFAULT_BUFFER_SIZE if blob.near else _BLOCK
    return io.BufferedReader(raw, ahead if size < 0 else max(1, min(ahead, size)))
