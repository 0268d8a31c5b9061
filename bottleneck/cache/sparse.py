"""A file in memory, in which HDF5 plans a larger one."""

import io
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

__all__ = ["SparseFile"]

_PAGE_BYTES = 2**14


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
