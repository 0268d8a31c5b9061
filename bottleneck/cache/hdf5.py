"""HDF5 files that may be anything, datasets that may claim anything, and a file in memory."""

import io
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import h5py

from bottleneck.errors import (
    BottleneckError,
    CacheError,
    DamagedError,
    first_line,
    is_out_of_memory,
)
from bottleneck.inputs import check_regular

__all__ = ["SparseFile", "dataset_of", "errors_of", "open_hdf5"]

_PAGE_BYTES = 2**14


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Turn errors of HDF5 and the system into one sentence, except that a file is missing.

    Parameters
    ----------
    path : Path

    Raises
    ------
    DamagedError, CacheError
        The file is damaged, or cannot be read or written.
    """
    try:
        yield
    except (BottleneckError, FileNotFoundError):
        raise
    except OSError as error:
        if error.errno is None:  # HDF5's own
            if not path.exists():  # removed between HDF5's first and second look
                raise FileNotFoundError(str(path)) from error
            raise DamagedError(path, str(error)) from error
        raise CacheError(
            f"{str(path)!r} cannot be read or written ({error.strerror}); check free disk space "
            f"and permissions, then run the command again: what was already stored is kept"
        ) from error
    except Exception as error:  # damaged bytes make HDF5 raise whatever it meets
        if is_out_of_memory(error):
            raise
        raise DamagedError(path, first_line(error)) from error


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading, if it is a regular file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    h5py.File

    Raises
    ------
    OSError
        It is no HDF5 file, or cannot be read.
    """
    check_regular(path)
    return h5py.File(path, "r", locking=False)


def dataset_of(file: h5py.File, name: str, *, chunked: bool = False) -> h5py.Dataset:
    """Return a dataset whose values are in this file, as many as it claims.

    Parameters
    ----------
    file : h5py.File
        The opened file.
    name : str
        Path of the dataset.
    chunked : bool
        Whether it may be compressed, in chunks of whole rows.

    Returns
    -------
    h5py.Dataset

    Raises
    ------
    KeyError
        There is none.
    ValueError
        It is something else, its values are elsewhere, or the file is too small for them.
    """
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        inner = "/".join(parts[:depth])
        if file.get(inner, getclass=True, getlink=True) is not h5py.HardLink:
            raise ValueError(f"{inner} is missing or a link")
    data = file[name]
    if getattr(data, "shape", None) is None or data.is_virtual or data.external:
        raise ValueError(f"{name} is not an array in this file")
    size = prod(data.shape) * data.dtype.itemsize
    if data.chunks and not (chunked and data.chunks[1:] == data.shape[1:]):
        raise ValueError(f"{name} is stored in chunks, not in whole rows")
    if not data.chunks and size > file.id.get_filesize():
        raise ValueError(f"{name} has the shape {data.shape}, more than the file holds")
    return data


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
