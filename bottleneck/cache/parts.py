"""Parts: the immutable HDF5 files of a bank."""

import io
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np

from bottleneck.errors import CacheError, FeatureOverflowError
from bottleneck.files import atomic_write

__all__ = [
    "HDF5_FORMAT",
    "PART_BYTES",
    "PART_SECONDS",
    "Part",
    "PartWriter",
    "errors_of",
    "part_files",
    "part_sizes",
    "store",
]

PART_BYTES = 256 * 2**20
PART_SECONDS = 60.0
HDF5_FORMAT = ("v110", "v110")
"""The first HDF5 with virtual datasets, so that old tools can read the files."""
_CHUNK_BYTES = 2**20
_CHECKSUM_BYTES = 4
_KEY_WIDTHS = (32, 2)
"""Bytes of a row's digest and view."""
_EMPTY_BYTES = 4096
"""What HDF5 takes for a file's structure, about."""


def store(values: np.ndarray, dtype: str, layer: str) -> np.ndarray:
    """Convert activations to the type in which they are stored.

    Raises
    ------
    FeatureOverflowError
        A value is not finite, before or after the conversion.
    """
    if not np.isfinite(values).all():
        raise FeatureOverflowError(
            f"layer {layer!r} gives nan or inf; expected finite activations: check the weights, or "
            f"take an earlier layer"
        )
    with np.errstate(over="ignore"):
        stored = values.astype(dtype, copy=False)
    if not np.isfinite(stored).all():
        raise FeatureOverflowError(
            f"layer {layer!r} reaches {np.abs(values).max():.4g}, more than {dtype} can hold "
            f"({np.finfo(dtype).max:.4g}); store it with --dtype float32"
        )
    return stored


@dataclass(frozen=True)
class Part:
    """One immutable file of a bank, whose fingerprint begins as given."""

    path: Path
    fingerprint: str

    @cached_property
    def _header(self) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
        with errors_of(self.path), h5py.File(self.path, "r", locking=False) as file:
            if not file.attrs["fingerprint"].startswith(self.fingerprint):
                raise CacheError(
                    f"{str(self.path)!r} has the fingerprint of another bank; expected "
                    f"{self.fingerprint}: move it to where it belongs"
                )
            digests = [bytes(row).hex() for row in file["digest"][:]]
            keys = list(zip(digests, map(int, file["view"][:]), strict=True))
            return keys, tuple(file["features"])

    @property
    def keys(self) -> list[tuple[str, int]]:
        """The (digest, view) of each row."""
        return self._header[0]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that every row holds."""
        return self._header[1]

    def read(self, layer: str, rows: Sequence[int]) -> Iterator[tuple[np.ndarray, range]]:
        """Yield the values of ascending rows in blocks, with each block's places in `rows`."""
        with errors_of(self.path), h5py.File(self.path, "r", locking=False) as file:
            data = file[f"features/{layer}"]
            step = max(1, 16 * _CHUNK_BYTES // row_bytes(data.shape, data.dtype))
            step = max(1, step // data.chunks[0]) * data.chunks[0]
            done = 0
            while done < len(rows):
                start = rows[done] // step * step
                stop = int(np.searchsorted(rows, start + step))
                block = data[start : start + step]
                yield block[np.asarray(rows[done:stop]) - start], range(done, stop)
                done = stop


class PartWriter:
    """Appends rows to a bank; every 256 MiB or 60 s of them become a part.

    A part is put together in memory and written at once: to a ``*.partial`` file, synced to disk
    and then renamed, so that whatever has a part's name is whole. (HDF5 itself does not survive a
    disk that fills up while it writes.) When the work ends early, for whatever reason but a failed
    write, the rows appended so far are kept.

    Parameters
    ----------
    folder : Path
        Where the parts go.
    attributes : mapping of str to Any
        Written into each part.
    dtype : str
        ``float16`` or ``float32``.
    part_bytes : int
        What a part holds at most, in memory and then on disk.
    """

    def __init__(
        self,
        folder: Path,
        attributes: Mapping[str, Any],
        dtype: str,
        *,
        part_bytes: int,
    ) -> None:
        self._folder = folder
        self._attributes = dict(attributes)
        self._dtype = dtype
        self._part_bytes = part_bytes
        self._rows = 0
        self._buffer = io.BytesIO()
        self._file: h5py.File | None = None
        self._bytes = 0
        self._started = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if not isinstance(error, CacheError):
            self._commit()

    def append(self, digests: Sequence[str], features: Mapping[str, np.ndarray]) -> None:
        """Add rows of view 0.

        Parameters
        ----------
        digests : sequence of str
            n digests.
        features : mapping of str to np.ndarray
            Layer to activations of shape (n, ...).

        Raises
        ------
        FeatureOverflowError
            See `store`; none of these rows is added.
        CacheError
            The part cannot be written: the disk is full, say.
        """
        columns: dict[str, np.ndarray] = {
            f"features/{layer}": store(values, self._dtype, layer)
            for layer, values in features.items()
        }
        columns["digest"] = np.array([list(bytes.fromhex(each)) for each in digests], np.uint8)
        columns["view"] = np.zeros(len(digests), np.uint16)
        if self._file is None:
            self._file = self._begin(columns)
        for name, values in columns.items():
            if len(values) != len(digests):
                raise CacheError(
                    f"{name} has {len(values)} rows, expected one for each of {len(digests)} images"
                )
            _extend(self._file[name], values, self._rows)
            self._bytes += values.nbytes
        self._rows += len(digests)
        if self._bytes >= self._part_bytes or time.monotonic() - self._started >= PART_SECONDS:
            self._commit()

    def _begin(self, columns: Mapping[str, np.ndarray]) -> h5py.File:
        self._buffer = io.BytesIO()
        self._bytes = self._rows = 0
        self._started = time.monotonic()
        file = h5py.File(self._buffer, "w", libver=HDF5_FORMAT)
        file.attrs.update(self._attributes)
        for name, values in columns.items():
            shape = values.shape[1:]
            rows = _chunk_rows(row_bytes(values.shape, values.dtype))
            dataset = file.create_dataset(
                name,
                shape=(0, *shape),
                maxshape=(None, *shape),
                chunks=(rows, *shape),
                dtype=values.dtype,
                fletcher32=True,
            )
            if name.startswith("features/"):
                dataset.attrs["layer"] = name.removeprefix("features/")
                dataset.attrs["shape"] = shape
        return file

    def _commit(self) -> None:
        if self._file is None:
            return
        # An interruption may have come between two columns of the last rows.
        file = self._file
        for dataset in (file["digest"], file["view"], *file["features"].values()):
            dataset.resize(self._rows, axis=0)
        self._file.close()
        self._file = None
        if not self._rows:
            return
        with errors_of(self._folder):
            atomic_write(_next_part(self._folder), self._buffer.getbuffer())
        self._buffer = io.BytesIO()


def part_sizes(rows: int, widths: Sequence[int], *, rows_per_part: int) -> list[int]:
    """Return the bytes on disk of the parts that some rows take.

    Parameters
    ----------
    rows : int
        How many.
    widths : sequence of int
        Bytes of a row in each dataset of features.
    rows_per_part : int
        How many a part holds.
    """
    sizes = []
    for start in range(0, rows, rows_per_part):
        held = min(rows_per_part, rows - start)
        chunks = [
            (-(-held // _chunk_rows(width)), _chunk_rows(width) * width + _CHECKSUM_BYTES)
            for width in (*widths, *_KEY_WIDTHS)
        ]
        sizes.append(_EMPTY_BYTES + sum(count * size for count, size in chunks))
    return sizes


def part_files(folder: Path) -> list[Path]:
    """Return the parts in a folder, oldest first."""
    return sorted(folder.glob("[0-9]*-*.h5"))


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Turn HDF5's and the system's errors into one sentence about a file."""
    try:
        yield
    except CacheError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if "filter returned failure" in reason:  # the only filter is the checksum
            reason = "a block's checksum does not match"
        remedy = (
            "move it away and extract again: its rows will be computed anew"
            if path.suffix == ".h5"
            else "see to the space and the rights there, then extract again: what was committed is "
            "kept"
        )
        raise CacheError(f"{str(path)!r} failed ({reason}); {remedy}") from error
    except (KeyError, IndexError, ValueError) as error:
        raise CacheError(
            f"{str(path)!r} is not a whole part of a bank ({error.args[0]}); move it away and "
            f"extract again: its rows will be computed anew"
        ) from error


def _next_part(folder: Path) -> Path:
    """Return an unused path; two writers never get the same."""
    numbers = [int(path.name.partition("-")[0]) for path in part_files(folder)]
    return folder / f"{max(numbers, default=0) + 1:06d}-{secrets.token_hex(4)}.h5"


def _extend(data: h5py.Dataset, values: np.ndarray, before: int) -> None:
    data.resize(before + len(values), axis=0)
    data[before:] = values


def _chunk_rows(width: int) -> int:
    """Return how many rows of so many bytes are stored, checked and read together."""
    return max(1, min(1024, _CHUNK_BYTES // width))


def row_bytes(shape: Sequence[int], dtype: np.dtype) -> int:
    return int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize or 1
