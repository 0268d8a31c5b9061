"""The byte layout of a part: HDF5 plans the file, and values are written into it directly."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Self

import h5py
import numpy as np
from xxhash import xxh3_64_intdigest

from bottleneck.cache.hdf5 import SparseFile, dataset_of
from bottleneck.errors import UsageError
from bottleneck.extras import import_extra

__all__ = [
    "COMPRESSIONS",
    "HDF5_FORMAT",
    "SCHEMA",
    "Dataset",
    "Layer",
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
"""Schema of a part; raised whenever older parts can no longer be read."""
HDF5_FORMAT = ("v110", "v110")
"""The first HDF5 version with virtual datasets, so that old tools can read the files."""
COMPRESSIONS = ("none", "lz4", "zstd")
_BLOCK_BYTES = 2**10
"""Bytes of rows that share a checksum, at least one row, so that single rows are verified."""
_CHUNK_BYTES = 2**18
"""Bytes that are compressed together."""
_ALIGNED = {"alignment_threshold": 4096, "alignment_interval": 4096}
"""Alignment of values to a page, so that they can be memory-mapped."""
_PLAN_BYTES = 2**10
"""Approximate size of a dataset without its values."""


@dataclass(frozen=True)
class Dataset:
    """A dataset to write.

    Attributes
    ----------
    shape, dtype : tuple of int, np.dtype
        Of the whole dataset, with at least one axis.
    blocks : iterable of np.ndarray
        The values, in order, split along the first axis; one block with filters.
    attributes : mapping of str to Any
        HDF5 attributes of the dataset.
    options : mapping of str to Any
        Chunks and filters, as for h5py; contiguous without them.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    blocks: Iterable[np.ndarray]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, values: np.ndarray, options: Mapping[str, Any] | None = None, **attributes: Any
    ) -> Self:
        """Build the dataset of an array."""
        return cls(values.shape, values.dtype, [values], attributes, options or {})


def hdf5_pieces(
    datasets: Mapping[str, Dataset], attributes: Mapping[str, Any]
) -> Iterator[memoryview]:
    """Yield the bytes of an HDF5 file from start to end.

    HDF5 plans the place of a contiguous dataset but never gets its values: they are neither copied
    nor held together in memory, and HDF5 never meets the error of a full disk, which it does not
    survive.

    Parameters
    ----------
    datasets : mapping of str to Dataset
        Datasets by their path in the file.
    attributes : mapping of str to Any
        HDF5 attributes of the file.

    Yields
    ------
    memoryview
        The next bytes.
    """
    plan = SparseFile()
    raw: dict[int, Dataset] = {}
    with h5py.File(plan, "w", libver=HDF5_FORMAT, **_ALIGNED) as file:
        file.attrs.update(_fixed(attributes))
        for name, each in datasets.items():
            properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            if not each.options:  # it has its place before its values
                properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
                properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            planned = file.create_dataset(
                name, each.shape, each.dtype, dcpl=properties, **each.options
            )
            planned.attrs.update(_fixed(each.attributes))
            if each.options:
                planned[...] = next(iter(each.blocks))
            elif prod(each.shape):
                raw[planned.id.get_offset()] = each
    place = 0
    for offset, each in sorted(raw.items()):
        yield from plan.pieces(place, offset)
        for block in each.blocks:
            yield np.ascontiguousarray(block).reshape(-1).view(np.uint8).data
        place = offset + prod(each.shape) * each.dtype.itemsize
    yield from plan.pieces(place, plan.end)


def _fixed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes with fixed-length texts, which need no heap."""
    return {
        key: np.bytes_(value.encode()) if isinstance(value, str) else value
        for key, value in attributes.items()
    }


@dataclass(frozen=True)
class Layer:
    """A layer's description in a part.

    Attributes
    ----------
    shape, dtype : tuple of int, np.dtype
        Of all rows together.
    offset : int or None
        Position of the rows in the file; None if they are compressed.
    sums : np.ndarray
        uint64 checksums of blocks of rows.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int | None
    sums: np.ndarray

    @classmethod
    def of(cls, file: h5py.File, name: str) -> Self:
        """Read a layer's description from an opened part."""
        data = dataset_of(file, f"features/{name}", chunked=True)
        offset = None if data.chunks else data.id.get_offset()
        return cls(data.shape, data.dtype, offset, dataset_of(file, f"checksums/{name}")[:])

    @property
    def width(self) -> int:
        """Size of a row in bytes."""
        return row_bytes(self)


Shaped = np.ndarray | Layer
"""Anything with a shape (n, ...) and a type."""


def row_bytes(values: Shaped) -> int:
    """Return the size of a row in bytes.

    Parameters
    ----------
    values : Shaped
        Anything with a shape (n, ...) and a dtype.

    Returns
    -------
    int
        Size in bytes, at least 1.
    """
    return prod(values.shape[1:]) * values.dtype.itemsize or 1


def block_rows(width: int) -> int:
    """Return the number of rows of this width that share a checksum.

    Parameters
    ----------
    width : int
        Size of a row in bytes.

    Returns
    -------
    int
        Number of rows, at least 1.
    """
    return max(1, _BLOCK_BYTES // width)


def checksums(values: np.ndarray) -> np.ndarray:
    """Return XXH3, as uint64, of each block of rows; the last may have fewer.

    Parameters
    ----------
    values : np.ndarray
        Shape (n, ...), contiguous.

    Returns
    -------
    np.ndarray
        Shape (blocks,).
    """
    size = block_rows(row_bytes(values)) * row_bytes(values)
    data = values.reshape(-1).view(np.uint8).data
    sums = [xxh3_64_intdigest(data[start : start + size]) for start in range(0, len(data), size)]
    return np.array(sums, np.uint64)


def seal_of(
    fingerprint: str, layers: Mapping[str, Shaped], digests: np.ndarray, views: np.ndarray
) -> str:
    """Return the SHA-256 over the schema, layers with their types, and keys of a part.

    Parameters
    ----------
    fingerprint : str
        Fingerprint of the bank.
    layers : mapping of str to Shaped
        Name to anything with the shape (n, ...) and the dtype of the layer's rows.
    digests, views : np.ndarray
        Keys of the rows: uint8 of shape (n, 32), and uint16 of shape (n,).

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    described = [
        (layer, values.dtype.str, *map(int, values.shape[1:]))
        for layer, values in sorted(layers.items())
    ]
    sealed = hashlib.sha256(repr((SCHEMA, fingerprint, described)).encode())
    sealed.update(np.ascontiguousarray(digests).data)
    sealed.update(np.ascontiguousarray(views).data)
    return sealed.hexdigest()


def compression_options(compress: str, values: Shaped) -> dict[str, Any]:
    """Return h5py's options for compressing values.

    For zstd, bytes of equal significance are grouped first (HDF5's shuffle filter), which gives
    smaller files at the same speed; for lz4 it makes files larger.

    Parameters
    ----------
    compress : str
        ``none``, ``lz4`` or ``zstd``.
    values : np.ndarray or Layer
        Anything with the values' shape (n, ...) and type.

    Returns
    -------
    dict of str to Any
        Arguments of `h5py.Group.create_dataset`.

    Raises
    ------
    UsageError
        The compression does not exist.
    MissingExtraError
        hdf5plugin is not installed.
    """
    if compress not in COMPRESSIONS:
        raise UsageError(f"no compression {compress!r}; expected one of {', '.join(COMPRESSIONS)}")
    if compress == "none":
        return {}
    filters = load_filters()
    chosen = filters.LZ4() if compress == "lz4" else filters.Zstd(clevel=1)
    rows = max(1, min(values.shape[0], _CHUNK_BYTES // row_bytes(values)))
    return {**chosen, "shuffle": compress == "zstd", "chunks": (rows, *values.shape[1:])}


def load_filters() -> Any:
    """Import hdf5plugin, which registers its filters with HDF5.

    Returns
    -------
    module

    Raises
    ------
    MissingExtraError
        hdf5plugin is not installed.
    """
    return import_extra("hdf5plugin", "reading or writing compressed features", "hdf5plugin")


def part_size(rows: int, widths: Sequence[int]) -> int:
    """Return the approximate size of an uncompressed part on disk.

    Parameters
    ----------
    rows : int
        Number of rows.
    widths : sequence of int
        Bytes per row of each layer.

    Returns
    -------
    int
        Size in bytes.
    """
    keys = rows * (32 + 2)
    sums = sum(8 * -(-rows // block_rows(width)) for width in widths)
    values = rows * sum(widths)
    return keys + sums + values + _PLAN_BYTES * (1 + len(widths))
