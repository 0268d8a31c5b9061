"""How the bytes of a part lie: HDF5 plans the file, the values go into it as they are."""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from types import ModuleType
from typing import Any

import h5py
import numpy as np
from xxhash import xxh3_64_intdigest

from bottleneck.errors import MissingExtraError, UsageError

__all__ = [
    "COMPRESSIONS",
    "HDF5_FORMAT",
    "SCHEMA",
    "Dataset",
    "SparseFile",
    "block_rows",
    "checksums",
    "compression_options",
    "hdf5_pieces",
    "load_filters",
    "part_size",
    "row_bytes",
    "seal_of",
]

SCHEMA = 3
"""Of a part; raised whenever parts of before cannot be read any more."""
HDF5_FORMAT = ("v110", "v110")
"""The first HDF5 with virtual datasets, so that old tools can read the files."""
COMPRESSIONS = ("none", "lz4", "zstd")
_BLOCK_BYTES = 2**10
"""Each row, or as many as this holds, has a checksum, so that single rows are read verified."""
_CHUNK_BYTES = 2**18
"""What is compressed together."""
_ALIGNED = {"alignment_threshold": 4096, "alignment_interval": 4096}
"""Values begin at a page, so that they can be mapped."""
_PLAN_BYTES = 2**10
"""What a dataset takes beside its values, about."""
_PAGE_BYTES = 2**14
_EMPTY_PAGE = bytes(_PAGE_BYTES)


@dataclass(frozen=True)
class Dataset:
    """A dataset to be written.

    Attributes
    ----------
    shape, dtype : tuple of int, np.dtype
        Of the whole; one axis at least.
    blocks : iterable of np.ndarray
        The values, in order, split along the first axis.
    attributes : mapping of str to Any
        Its HDF5 attributes.
    options : mapping of str to Any
        Chunks and filters, as h5py takes them; contiguous without.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    blocks: Iterable[np.ndarray]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, values: np.ndarray, **attributes: Any) -> "Dataset":
        """Return the dataset of an array."""
        return cls(values.shape, values.dtype, [values], attributes)

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return prod(self.shape) * self.dtype.itemsize


def hdf5_pieces(
    datasets: Mapping[str, Dataset], attributes: Mapping[str, Any]
) -> Iterator[memoryview]:
    """Yield the bytes of an HDF5 file from its start to its end.

    HDF5 plans a contiguous dataset's place, but never sees its values: they are neither copied nor
    held together in memory, and no error of a full disk reaches HDF5, which does not survive it.

    Parameters
    ----------
    datasets : mapping of str to Dataset
        By their path in the file.
    attributes : mapping of str to Any
        Of the file.
    """
    plan = SparseFile()
    raw: dict[int, Dataset] = {}
    with h5py.File(plan, "w", libver=HDF5_FORMAT, **_ALIGNED) as file:
        file.attrs.update(_fixed(attributes))
        for name, each in datasets.items():
            planned = file.create_dataset(
                name, each.shape, each.dtype, dcpl=_early(each), **each.options
            )
            planned.attrs.update(_fixed(each.attributes))
            if each.options:
                _fill(planned, each.blocks)
            elif each.size:
                raw[planned.id.get_offset()] = each
    place = 0
    for offset, each in sorted(raw.items()):
        yield from plan.pieces(place, offset)
        for block in each.blocks:
            yield np.ascontiguousarray(block).reshape(-1).view(np.uint8).data
        place = offset + each.size
    yield from plan.pieces(place, plan.seek(0, io.SEEK_END))


def _early(dataset: Dataset) -> Any:
    """Return the properties by which a contiguous dataset has its place before its values."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if not dataset.options:
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return properties


def _fill(planned: h5py.Dataset, blocks: Iterable[np.ndarray]) -> None:
    start = 0
    for block in blocks:
        planned[start : start + len(block)] = block
        start += len(block)


def _fixed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes with texts of fixed length, which need no heap."""
    return {
        key: np.bytes_(value.encode()) if isinstance(value, str) else value
        for key, value in attributes.items()
    }


class SparseFile(io.RawIOBase):
    """A file in memory of which only the pages that are written take space."""

    def __init__(self) -> None:
        super().__init__()
        self._pages: dict[int, bytearray] = {}
        self._place = 0
        self._end = 0

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, and return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._end}[whence]
        self._place = start + place
        return self._place

    def truncate(self, size: int | None = None) -> int:
        """Set the size."""
        self._end = self._place if size is None else size
        return self._end

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer."""
        target = memoryview(buffer).cast("B")
        done = 0
        for piece in self.pieces(self._place, self._place + len(target)):
            target[done : done + len(piece)] = piece
            done += len(piece)
        self._place += done
        return done

    def write(self, data: Any) -> int:
        """Write, and return how many bytes."""
        source = memoryview(data).cast("B")
        done = 0
        while done < len(source):
            number, start = divmod(self._place, _PAGE_BYTES)
            part = source[done : done + _PAGE_BYTES - start]
            page = self._pages.setdefault(number, bytearray(_PAGE_BYTES))
            page[start : start + len(part)] = part
            self._place += len(part)
            done += len(part)
        self._end = max(self._end, self._place)
        return done

    def pieces(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the bytes of a range; what was never written is zero."""
        while start < stop:
            number, offset = divmod(start, _PAGE_BYTES)
            length = min(_PAGE_BYTES - offset, stop - start)
            page = self._pages.get(number, _EMPTY_PAGE)
            yield memoryview(page)[offset : offset + length]
            start += length


def row_bytes(shape: Sequence[int], dtype: np.dtype) -> int:
    """Return the bytes of a row of an array of shape (n, ...)."""
    return prod(shape[1:]) * dtype.itemsize or 1


def block_rows(width: int) -> int:
    """Return how many rows of so many bytes have a checksum together."""
    return max(1, _BLOCK_BYTES // width)


def checksums(values: np.ndarray, rows: int) -> list[int]:
    """Return XXH3 (64 bits) of each block of so many rows; the last may have fewer."""
    size = rows * row_bytes(values.shape, values.dtype)
    data = values.reshape(-1).view(np.uint8).data
    return [xxh3_64_intdigest(data[start : start + size]) for start in range(0, len(data), size)]


def seal_of(
    fingerprint: str,
    layers: Mapping[str, tuple[Sequence[int], np.dtype]],
    digests: np.ndarray,
    views: np.ndarray,
) -> str:
    """Return the SHA-256 over what a part's rows are: schema, layers with their types, and keys."""
    described = [
        (layer, np.dtype(dtype).str, *map(int, shape[1:]))
        for layer, (shape, dtype) in sorted(layers.items())
    ]
    sealed = hashlib.sha256(repr((SCHEMA, fingerprint, described)).encode())
    sealed.update(np.ascontiguousarray(digests).data)
    sealed.update(np.ascontiguousarray(views).data)
    return sealed.hexdigest()


def compression_options(compress: str, shape: Sequence[int], dtype: np.dtype) -> dict[str, Any]:
    """Return the options by which h5py compresses a dataset.

    zstd goes over the bytes of equal rank put together, which makes it denser and no slower; lz4
    gets worse by that.

    Raises
    ------
    UsageError
        There is no such compression.
    MissingExtraError
        hdf5plugin is not installed.
    """
    if compress not in COMPRESSIONS:
        raise UsageError(f"no compression {compress!r}; expected one of {', '.join(COMPRESSIONS)}")
    if compress == "none":
        return {}
    filters = load_filters()
    chosen = filters.LZ4() if compress == "lz4" else filters.Zstd(clevel=1)
    rows = max(1, min(shape[0], _CHUNK_BYTES // row_bytes(shape, dtype)))
    return {**chosen, "shuffle": compress == "zstd", "chunks": (rows, *shape[1:])}


def load_filters() -> ModuleType:
    """Import hdf5plugin, which makes its filters known to HDF5.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    try:
        import hdf5plugin
    except ImportError as error:
        raise MissingExtraError(
            "compressed features need hdf5plugin; install it with "
            "pip install 'bottleneck-features[compress]'"
        ) from error
    module: ModuleType = hdf5plugin
    return module


def part_size(rows: int, widths: Sequence[int]) -> int:
    """Return the bytes on disk of a part, about: rows of layers of so many bytes, uncompressed."""
    keys = rows * (32 + 2)
    sums = sum(8 * -(-rows // block_rows(width)) for width in widths)
    values = rows * sum(widths)
    return keys + sums + values + _PLAN_BYTES * (1 + len(widths))
