"""Parts: the immutable HDF5 files of a bank, read with all checksums verified, and their index."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from xxhash import xxh3_64

from bottleneck.cache.hdf5 import dataset_of, errors_of, open_hdf5
from bottleneck.cache.layout import SCHEMA, Layer, block_rows, checksums, load_filters, seal_of
from bottleneck.errors import STORE_AGAIN, CacheError, DamagedError, counted
from bottleneck.inputs import open_regular

__all__ = ["PART_NAME", "Part", "RowIndex", "as_slice", "keys_of", "part_files"]

_KEY_BYTES = 32 + 2
"""Bytes of a key, which is a digest and a view number."""
PART_NAME = re.compile(r"[0-9]{6,18}-[0-9a-f]{8}\.h5")
_READ_BYTES = 2**19
"""Bytes that are read, verified and yielded together; they fit into a core's cache."""

_STEPS = 16
"""So many keys of its bucket are passed before a key is searched for among all."""
_Fill = Callable[[np.ndarray, int], None]
"""Fills an array with consecutive rows, starting at the given row number."""


@dataclass(frozen=True, eq=False)
class Part:
    """One immutable file of a bank: its keys, and the location of its values.

    A `FileNotFoundError` means that the part has been replaced by others with the same rows.

    Attributes
    ----------
    path : Path
        The file.
    digests, views : np.ndarray
        Digest of each row's image, uint8 of shape (n, 32), and its view, uint16 of shape (n,).
    layers : dict of str to Layer
        The layers that every row has.
    compress : str
        Compression of the values: ``none``, ``lz4`` or ``zstd``.
    fingerprint : str
        That of the bank.
    seal : str
        SHA-256 of keys and layers, see `seal_of`.
    places : dict of str to int
        Name of each dataset of keys or checksums to its position in the file.
    """

    path: Path
    digests: np.ndarray
    views: np.ndarray
    layers: dict[str, Layer]
    compress: str
    fingerprint: str
    seal: str
    places: dict[str, int]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read everything but the values.

        Raises
        ------
        CacheError
            Another version wrote it, or it is in the folder of another bank.
        DamagedError
            The file has been changed.
        """
        own = path.parent.parent.name.rpartition("-")[2]
        with errors_of(path), open_hdf5(path) as file:
            schema = file.attrs["schema"]
            if schema != SCHEMA:
                raise CacheError(
                    f"{str(path)!r} has schema {schema}, expected {SCHEMA}: another version of "
                    f"this package wrote it; use another `cache`, or remove the bank and "
                    f"{STORE_AGAIN}"
                )
            fingerprint = file.attrs["fingerprint"].decode()
            if not fingerprint.startswith(own):
                raise CacheError(
                    f"{str(path)!r} has the fingerprint of another bank; expected one that "
                    f"begins with {own!r}: move the file back to its own bank, and do not rename "
                    f"the folders of banks"
                )
            layers = {name: Layer.of(file, name) for name in file["features"]}
            digests, views = (dataset_of(file, key)[:] for key in ("digest", "view"))
            if digests.shape != (*views.shape, _KEY_BYTES - 2):
                raise DamagedError(path, "its keys do not have the shape of keys")
            if {each.shape[0] for each in layers.values()} - {len(views)}:
                raise DamagedError(
                    path, f"its layers do not have {counted(len(views), 'row')} each"
                )
            seal = seal_of(fingerprint, layers, digests, views)
            if seal != file.attrs["seal"].decode():
                raise DamagedError(path, "its keys do not match their digest")
            named = ("digest", "view", *(f"checksums/{name}" for name in layers))
            places = {name: int(file[name].id.get_offset()) for name in named}
            compress = file.attrs["compress"].decode()
            return cls(path, digests, views, layers, compress, fingerprint, seal, places)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.views)

    @property
    def width(self) -> int:
        """Size of a row of all layers in bytes."""
        return sum(layer.width for layer in self.layers.values())

    def dataset(self, name: str) -> np.ndarray | Layer:
        """Return an object with the shape and the type of a dataset in the file."""
        keys = {"digest": self.digests, "view": self.views}
        return keys[name] if name in keys else self.layers[name.removeprefix("features/")]

    def read(self, layer: str, rows: np.ndarray) -> Iterator[tuple[np.ndarray, slice]]:
        """Yield blocks of values of ascending rows, with each block's positions in `rows`.

        Copy values that you keep: the next block overwrites them.

        Raises
        ------
        DamagedError
            The checksum of a block does not match; that block has not been yielded.
        """
        found = self.layers[layer]
        per_block = block_rows(found.width)
        blocks, own_block = np.unique(rows // per_block, return_inverse=True)
        places = own_block * per_block + rows % per_block
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
        """Read consecutive blocks into a buffer and verify them."""
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
            with open_hdf5(self.path) as file:
                data = file[f"features/{layer}"]
                yield lambda rows, start: data.read_direct(rows, np.s_[start : start + len(rows)])
            return
        begin, width = found.offset, found.width
        with open_regular(self.path) as plain:

            def load(rows: np.ndarray, start: int) -> None:
                plain.seek(begin + start * width)
                if plain.readinto(rows.data.cast("B")) < rows.nbytes:
                    raise DamagedError(self.path, "it is truncated")

            yield load

    def check_all(self) -> None:
        """Raise `DamagedError` if any byte of the file has been changed."""
        self.check_content()
        for layer in self.layers:
            for _ in self.read(layer, np.arange(self.rows)):
                pass

    def check_content(self) -> None:
        """Raise `DamagedError` unless the file's bytes match the hash in its name."""
        with errors_of(self.path), open_regular(self.path) as file:
            content = hashlib.file_digest(file, xxh3_64)
        if not content.hexdigest().startswith(self.path.stem.partition("-")[2]):
            raise DamagedError(self.path, "its bytes do not match its name")


class RowIndex:
    """The rows of a layer in some parts, each key once, as concurrent writers may write it twice.

    Rows are numbered across all parts, in order.

    Parameters
    ----------
    parts : sequence of Part
        Parts without the layer are skipped.
    layer : str
        Name of the layer.

    Attributes
    ----------
    parts : sequence of Part
        The given parts.
    keys : np.ndarray
        All distinct keys, sorted, see `keys_of`.
    first : np.ndarray
        The number of the first row with each key.
    """

    def __init__(self, parts: Sequence[Part], layer: str) -> None:
        self.parts, self._layer = parts, layer
        self._parts = [part for part in parts if layer in part.layers]
        self._starts = np.cumsum([0, *(part.rows for part in self._parts)])
        keys = [keys_of(part.digests, part.views) for part in self._parts]
        self.keys, self.first = np.unique(
            np.concatenate([*keys, keys_of(np.empty((0, 32), np.uint8), 0)]), return_index=True
        )
        self._beginnings = _beginnings(self.keys)
        bits = max(1, len(self).bit_length() - 1)  # of the buckets, each of one or two keys
        self._shift = np.uint64(64 - bits)
        starts = np.arange(2**bits, dtype=np.uint64) << self._shift
        self._buckets = np.searchsorted(self._beginnings, starts)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def nbytes(self) -> int:
        """Memory of the index and of the keys in its parts, in bytes."""
        own = self.keys.nbytes + self.first.nbytes + self._beginnings.nbytes
        own += self._buckets.nbytes
        return own + sum(part.digests.nbytes + part.views.nbytes for part in self._parts)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the row number of each key; -1 if there is none."""
        if not len(self):
            return np.full(len(keys), -1)
        last, wanted = len(self) - 1, _beginnings(keys)
        places = np.minimum(self._buckets[wanted >> self._shift], last)
        behind = np.arange(len(keys))
        for _ in range(_STEPS):  # digests are spread evenly over the buckets: most take one or two
            behind = behind[places[behind] < last]
            behind = behind[self._beginnings[places[behind]] < wanted[behind]]
            places[behind] += 1
        other = self.keys[places] != keys  # there is none, or other keys are in its way
        places[other] = np.minimum(np.searchsorted(self.keys, keys[other]), last)
        other[other] = self.keys[places[other]] != keys[other]
        return np.where(other, -1, self.first[places])

    def rows_of(self, keys: np.ndarray, bank: str, made_by: str) -> np.ndarray:
        """Return the row number of each key; `CacheError` if the bank lacks rows of any image."""
        numbers = self.find(keys)
        if (numbers < 0).any():
            images = keys.view(np.uint8).reshape(len(keys), _KEY_BYTES)[:, :-2]
            lacking, wanted = (len(np.unique(own, axis=0)) for own in (images[numbers < 0], images))
            raise CacheError(
                f"{lacking} of {counted(wanted, 'different image has', 'different images have')} "
                f"no features of layer {self._layer!r} in bank {bank}; run {made_by!r} for them"
            )
        return numbers

    def first_rows(self) -> Iterator[tuple[Part, np.ndarray]]:
        """Yield each part with its rows whose keys are in no earlier part."""
        for part, rows, _ in self.by_part(np.sort(self.first)):
            yield part, rows

    def by_part(self, numbers: np.ndarray) -> Iterator[tuple[Part, np.ndarray, slice]]:
        """Split ascending row numbers by part, and give their positions in `numbers`."""
        bounds = np.searchsorted(numbers, self._starts)
        for part, start, low, high in zip(
            self._parts, self._starts, bounds, bounds[1:], strict=False
        ):
            if low < high:
                yield part, numbers[low:high] - start, slice(low, high)


def _beginnings(keys: np.ndarray) -> np.ndarray:
    """Return the first 8 bytes of keys as numbers in the same order, for fast comparison."""
    rows = keys.view(np.uint8).reshape(len(keys), keys.itemsize)
    return np.ascontiguousarray(rows[:, :8]).view(">u8").reshape(-1).astype(np.uint64)


def keys_of(digests: np.ndarray, views: np.ndarray | int) -> np.ndarray:
    """Return sortable keys of shape (n,), from digests (n, 32) and views.

    Parameters
    ----------
    digests, views : np.ndarray, np.ndarray or int

    Returns
    -------
    np.ndarray
    """
    keys = np.empty((len(digests), _KEY_BYTES), np.uint8)
    keys[:, :-2] = digests
    keys[:, -2:] = np.asarray(views, ">u2")[..., None].view(np.uint8)
    return keys.view(f"S{_KEY_BYTES}").reshape(-1)


def as_slice(places: np.ndarray) -> slice | np.ndarray:
    """Return consecutive places as a slice, which NumPy copies faster; else the places.

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
    """Return the parts in a folder, oldest first, ignoring folders and files with other names.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    list of Path
    """
    try:
        with os.scandir(folder) as entries:
            named = [each for each in entries if PART_NAME.fullmatch(each.name)]
            # What a file is stands in the folder; only links are looked at one by one.
            found = [
                folder / each.name
                for each in named
                if each.is_file(follow_symlinks=False) or (folder / each.name).is_file()
            ]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    return sorted(found, key=lambda path: (len(path.name), path.name))  # of six digits or more
