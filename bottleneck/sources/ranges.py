"""Parts of files behind URLs: read in blocks, ahead of the reader, by several connections."""

import os
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

from bottleneck.errors import DataError
from bottleneck.sources.remote import read_remote, stated

__all__ = ["RemoteFile"]

_BLOCK, _KEPT = 2**20, 64
_AHEAD, _CONNECTIONS = 3, 16
_WHOLE = 2**28
"""Bytes of the largest file that is kept whole, of a server that sends no parts."""


class _Blocks:
    """The last blocks of all files, so that many files take no more memory than one."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="blocks")
        self._lock = threading.Lock()
        self._found: OrderedDict[tuple[RemoteFile, int], Future[bytes]] = OrderedDict()

    def get(self, file: "RemoteFile", number: int) -> bytes:
        """Return a block, and begin to read those after it where the one before was read."""
        with self._lock:
            block = self._begun(file, number)
            if (file, number - 1) in self._found:
                for following in range(number + 1, number + 1 + _AHEAD):
                    if following * _BLOCK < file.size:
                        self._begun(file, following)
            while len(self._found) > _KEPT:
                self._found.popitem(last=False)
        return block.result()

    def _begun(self, file: "RemoteFile", number: int) -> Future[bytes]:
        """Return a block that is read or being read; again if that has failed."""
        key = file, number
        block = self._found.get(key)
        if block is None or (block.done() and block.exception()):
            start = number * _BLOCK
            end = min(start + _BLOCK, file.size)
            block = self._found[key] = self._pool.submit(file.read_part, start, end)
        self._found.move_to_end(key)
        return block


def _renew() -> None:
    """Begin anew in a forked process, in which the threads are missing."""
    global _blocks  # noqa: PLW0603 - one of a process
    _blocks = _Blocks()


_blocks = _Blocks()
os.register_at_fork(after_in_child=_renew)


class RemoteFile:
    """A file behind a URL; see `Blob`.

    Parameters
    ----------
    url : str
        The file, of which whole blocks are read; the last ones are kept.

    Raises
    ------
    MissingExtraError, PathMissingError, DataError
        As `bottleneck.sources.list_remote` raises them.
    """

    near = False

    def __init__(self, url: str) -> None:
        self._url = url
        self.size, self.version = stated(url)
        self._whole: bytes | None = None
        if self.size < 0:
            raise DataError("its server does not state its size; copy it to this machine")

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
        end = min(start + length, self.size)
        if end <= start:
            return b""
        if length > _BLOCK * 4:
            return self.read_part(start, end)
        first = start // _BLOCK
        pieces = [_blocks.get(self, number) for number in range(first, (end - 1) // _BLOCK + 1)]
        return b"".join(pieces)[start - first * _BLOCK : end - first * _BLOCK]

    def read_part(self, start: int, end: int) -> bytes:
        """Return the bytes of a part, which is not kept.

        Parameters
        ----------
        start, end : int
            In bytes.

        Returns
        -------
        bytes

        Raises
        ------
        MissingExtraError, PathMissingError, DataError
            As for the class; or the file has changed, or is large and cannot be read in parts.
        """
        if self._whole is not None:
            return self._whole[start:end]
        found = read_remote(self._url, start, end)
        if len(found) == end - start:
            return found
        if len(found) < end:
            raise DataError(f"{self._url!r} ended too soon; it may have changed: open it again")
        if len(found) > _WHOLE:
            raise DataError(
                f"the server of {self._url!r} sends no parts of files, and this one has "
                f"{len(found):,} bytes; copy it to this machine"
            )
        self._whole = found
        return found[start:end]
