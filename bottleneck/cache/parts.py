"""Parts: the immutable HDF5 files of a bank, read with every checksum verified, and their index."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import h5py
import numpy as np
from xxhash import xxh3_64

from bottleneck.cache.layout import SCHEMA, Layer, block_rows, checksums, load_filters, seal_of
from bottleneck.errors import BottleneckError, CacheError, DamagedError

__all__ = [
    "Part",
    "RowIndex",
    "as_slice",
    "errors_of",
    "keys_of",
    "part_files",
    "part_number",
]

_KEY_BYTES = 32 + 2
"""Of a digest and a view."""
_PART_NAME = re.compile(r"[0-9]{6,18}-[0-9a-f]{8}\.h5")
_READ_BYTES = 2**19
"""What is read, verified and handed on together; it stays in a core's cache meanwhile."""

_Fill = Callable[[np.ndarray, int], None]
"""Fills an array with consecutive rows, from the one of that number on."""


@dataclass(frozen=True, eq=False)
class Part:
    """One immutable file of a bank: its keys, and what tells where its values are.

    A `FileNotFoundError` means that the part has been replaced by others that hold its rows.

    Attributes
    ----------
    path : Path
        The file.
    digests, views : np.ndarray
        The image of each row, uint8 of shape (n, 32), and the view of it, uint16 of shape (n,).
    layers : dict of str to Layer
        What every row holds.
    compress : str
        How the values are compressed: ``none``, ``lz4`` or ``zstd``.
    """

    path: Path
    digests: np.ndarray
    views: np.ndarray
    layers: dict[str, Layer]
    compress: str

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read all but the values.

        Raises
        ------
        CacheError
            Another version wrote it, or it is in the folder of another bank.
        DamagedError
            It is not what was written.
        """
        own = path.parent.parent.name.rpartition("-")[2]
        with errors_of(path), h5py.File(path, "r", locking=False) as file:
            schema = file.attrs["schema"]
            if schema != SCHEMA:
                raise CacheError(
                    f"{str(path)!r} has the schema {schema}, expected {SCHEMA}: another version "
                    f"wrote it; use another `cache`, or remove the bank and extract again"
                )
            fingerprint = file.attrs["fingerprint"].decode()
            if not fingerprint.startswith(own):
                raise CacheError(
                    f"{str(path)!r} has the fingerprint of another bank; expected one that begins "
                    f"with {own!r}: move it to where it belongs, and leave the folders of banks "
                    f"their names"
                )
            layers = {name: Layer.of(file, name) for name in file["features"]}
            part = cls(
                path, file["digest"][:], file["view"][:], layers, file.attrs["compress"].decode()
            )
            seal = seal_of(fingerprint, layers, part.digests, part.views)
            if seal != file.attrs["seal"].decode():
                raise DamagedError(path, "its keys do not match their digest")
            return part

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.views)

    def dataset(self, name: str) -> np.ndarray | Layer:
        """Return what has the shape and the type of a dataset in the file."""
        keys = {"digest": self.digests, "view": self.views}
        return keys[name] if name in keys else self.layers[name.removeprefix("features/")]

    def read(self, layer: str, rows: np.ndarray) -> Iterator[tuple[np.ndarray, slice]]:
        """Yield the values of ascending rows in pieces, and each piece's places in `rows`.

        Copy what you keep: the next piece overwrites it.

        Raises
        ------
        DamagedError
            A block's checksum does not match; nothing of it has been yielded.
        """
        found = self.layers[layer]
        per_block = block_rows(found.width)
        is_first = np.diff(rows // per_block, prepend=-1) != 0
        blocks = rows[is_first] // per_block
        places = (np.cumsum(is_first) - 1) * per_block + rows % per_block
        step = max(1, _READ_BYTES // (per_block * found.width))
        buffer = np.empty((step * per_block, *found.shape[1:]), found.dtype)
        with errors_of(self.path), self._opened(layer) as fill:
            done = 0
            for first in range(0, len(blocks), step):
                self._load(found, blocks[first : first + step], buffer, fill)
                stop = int(np.searchsorted(places, (first + step) * per_block))
                piece = slice(done, stop)
                yield buffer[as_slice(places[piece] - first * per_block)], piece
                done = stop

    def _load(self, layer: Layer, blocks: np.ndarray, buffer: np.ndarray, fill: _Fill) -> None:
        """Read blocks one after the other into a buffer, and verify them."""
        per_block = block_rows(layer.width)
        edges = np.flatnonzero(np.diff(blocks, prepend=-2) != 1)
        starts = blocks[edges] * per_block  # of runs of consecutive blocks
        lengths = np.diff(edges, append=len(blocks)) * per_block
        lengths[-1] = min(lengths[-1], layer.shape[0] - starts[-1])
        done = 0
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            fill(buffer[done : done + length], start)
            done += length
        if not np.array_equal(checksums(buffer[:done]), layer.sums[blocks]):
            raise DamagedError(self.path, "a block's checksum does not match")

    @contextmanager
    def _opened(self, layer: str) -> Iterator[_Fill]:
        found = self.layers[layer]
        if found.offset is None:
            load_filters()
            with h5py.File(self.path, "r", locking=False) as file:
                data = file[f"features/{layer}"]
                yield lambda rows, start: data.read_direct(rows, np.s_[start : start + len(rows)])
            return
        begin, width = found.offset, found.width
        with self.path.open("rb", buffering=0) as plain:

            def load(rows: np.ndarray, start: int) -> None:
                plain.seek(begin + start * width)
                rest = rows.data.cast("B")
                while rest:  # a system may give less than it is asked for
                    got = plain.readinto(rest)
                    if not got:
                        raise DamagedError(self.path, "it is cut off")
                    rest = rest[got:]

            yield load

    def check_all(self) -> None:
        """Raise `DamagedError` unless every byte of the file is as it was written."""
        self.check_content()
        for layer in self.layers:
            for _ in self.read(layer, np.arange(self.rows)):
                pass

    def check_content(self) -> None:
        """Raise `DamagedError` unless the bytes of the file are those that its name tells."""
        with errors_of(self.path), self.path.open("rb") as file:
            content = hashlib.file_digest(file, xxh3_64)
        if not content.hexdigest().startswith(self.path.stem.partition("-")[2]):
            raise DamagedError(self.path, "its bytes do not match its name")


class RowIndex:
    """The rows of a layer in some parts, each key once: writers at work side by side may double it.

    Rows are numbered through all parts, in their order.

    Parameters
    ----------
    parts : sequence of Part
        Those without the layer are passed over.
    layer : str
        Its name.

    Attributes
    ----------
    parts : sequence of Part
        As given.
    keys : np.ndarray
        All different keys, see `keys_of`, sorted.
    first : np.ndarray
        The number of the first row with each key.
    """

    def __init__(self, parts: Sequence[Part], layer: str) -> None:
        self.parts = parts
        self._parts = [part for part in parts if layer in part.layers]
        self._starts = np.cumsum([0, *(part.rows for part in self._parts)])
        keys = [keys_of(part.digests, part.views) for part in self._parts]
        self.keys, self.first = np.unique(
            np.concatenate([*keys, keys_of(np.empty((0, 32), np.uint8), 0)]), return_index=True
        )
        self._beginnings = _beginnings(self.keys)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def nbytes(self) -> int:
        """What the index and the keys in its parts take in memory."""
        own = self.keys.nbytes + self.first.nbytes + self._beginnings.nbytes
        return own + sum(part.digests.nbytes + part.views.nbytes for part in self._parts)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the number of each key's row; -1 where there is none."""
        if not len(self):
            return np.full(len(keys), -1)
        last = len(self) - 1
        places = np.minimum(np.searchsorted(self._beginnings, _beginnings(keys)), last)
        other = self.keys[places] != keys  # or the first of several that begin so
        places[other] = np.minimum(np.searchsorted(self.keys, keys[other]), last)
        return np.where(self.keys[places] == keys, self.first[places], -1)

    def first_rows(self) -> Iterator[tuple[Part, np.ndarray]]:
        """Yield each part with those of its rows whose key no earlier one has."""
        for part, rows, _ in self.by_part(np.sort(self.first)):
            yield part, rows

    def by_part(self, numbers: np.ndarray) -> Iterator[tuple[Part, np.ndarray, slice]]:
        """Split ascending numbers into each part's own rows, with their place among `numbers`."""
        bounds = np.searchsorted(numbers, self._starts)
        for part, start, low, high in zip(
            self._parts, self._starts, bounds, bounds[1:], strict=False
        ):
            if low < high:
                yield part, numbers[low:high] - start, slice(low, high)


def _beginnings(keys: np.ndarray) -> np.ndarray:
    """Return the first 8 bytes of keys as numbers of the same order, which compare faster."""
    rows = keys.view(np.uint8).reshape(len(keys), keys.itemsize)
    return np.ascontiguousarray(rows[:, :8]).view(">u8").reshape(-1).astype(np.uint64)


def keys_of(digests: np.ndarray, views: np.ndarray | int) -> np.ndarray:
    """Return keys that sort and compare, of shape (n,), from digests (n, 32) and views.

    Parameters
    ----------
    digests, views : np.ndarray, np.ndarray or int

    Returns
    -------
    np.ndarray
    """
    keys = np.empty((len(digests), _KEY_BYTES), np.uint8)
    keys[:, :-2] = digests
    keys[:, -2] = np.asarray(views) >> 8
    keys[:, -1] = np.asarray(views) & 255
    return keys.view(f"S{_KEY_BYTES}").reshape(-1)


def as_slice(places: np.ndarray) -> slice | np.ndarray:
    """Return consecutive places as a slice, by which NumPy copies faster, or none at all.

    Parameters
    ----------
    places : np.ndarray of int, shape (n,)

    Returns
    -------
    slice or np.ndarray
    """
    if bool((np.diff(places) == 1).all()):
        return slice(int(places[0]), int(places[-1]) + 1)
    return places


def part_files(folder: Path) -> list[Path]:
    """Return the parts in a folder, oldest first; what has no part's name is passed over.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    list of Path
    """
    found = [path for path in folder.glob("*.h5") if _PART_NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (part_number(path), path.name))


def part_number(path: Path) -> int:
    """Return the number with which a part's name begins.

    Parameters
    ----------
    path : Path

    Returns
    -------
    int
    """
    return int(path.name.partition("-")[0])


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Turn HDF5's and the system's errors into one sentence about a file.

    A file that is not there any more stays a `FileNotFoundError`.

    Parameters
    ----------
    path : Path

    Raises
    ------
    DamagedError, CacheError
        The file does not hold what it should, or cannot be read or written.
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
            f"{str(path)!r} failed ({error.strerror}); check free disk space and permissions, "
            f"then run the command again: what was committed is kept"
        ) from error
    except (KeyError, IndexError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        reason = str(error.args[0]) if error.args else type(error).__name__
        raise DamagedError(path, reason) from error
