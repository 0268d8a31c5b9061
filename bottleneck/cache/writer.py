"""Write rows into parts."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Self

import numpy as np
from xxhash import xxh3_64

from bottleneck.cache import layout
from bottleneck.cache.hdf5 import errors_of
from bottleneck.cache.layout import SCHEMA, Dataset, row_bytes
from bottleneck.cache.parts import part_files
from bottleneck.errors import CacheError, FeatureOverflowError, UsageError, counted
from bottleneck.files import atomic_write, signals_held

__all__ = [
    "PART_BYTES",
    "PART_SECONDS",
    "PartWriter",
    "digest_rows",
    "store",
]

PART_BYTES = 128 * 2**20
PART_SECONDS = 30.0
_DIGEST_LETTERS = 64
_KEYS = ("digest", "view")


def store(values: np.ndarray, dtype: str, layer: str) -> np.ndarray:
    """Convert activations to the type in which they are stored.

    Parameters
    ----------
    values : np.ndarray
        The activations, of any shape.
    dtype : str
        ``float16`` or ``float32``.
    layer : str
        Name of the layer, for the error message.

    Returns
    -------
    np.ndarray
        The same values in that type; `values` itself if it already has it.

    Raises
    ------
    FeatureOverflowError
        A value is not finite, before or after the conversion.
    """
    if not np.isfinite(values).all():
        raise FeatureOverflowError(
            f"layer {layer!r} gives nan or inf; expected finite activations: if it was computed "
            f"in fp16, use `precision=fp32` or `precision=bf16`; otherwise check the weights, or "
            f"choose an earlier layer"
        )
    with np.errstate(over="ignore"):
        stored = values.astype(dtype, copy=False)
    if not np.isfinite(stored).all():
        raise FeatureOverflowError(
            f"layer {layer!r} reaches {np.abs(values).max():.4g}, more than {dtype} can hold "
            f"({np.finfo(dtype).max:.4g}); store it with `dtype=float32`"
        )
    return stored


def digest_rows(digests: Sequence[str] | np.ndarray) -> np.ndarray:
    """Return hexadecimal digests as uint8 of shape (n, 32).

    Parameters
    ----------
    digests : sequence of str, or np.ndarray
        n digests of 64 digits; uint8 of shape (n, 32) is returned unchanged.

    Returns
    -------
    np.ndarray
        uint8 of shape (n, 32).

    Raises
    ------
    UsageError
        A digest is longer or shorter.
    ValueError
        A digest is not hexadecimal.
    """
    if isinstance(digests, np.ndarray) and digests.dtype == np.uint8:
        return digests
    if any(len(digest) != _DIGEST_LETTERS for digest in digests):
        raise UsageError(f"each digest must have {_DIGEST_LETTERS} hexadecimal digits")
    return np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(-1, 32)


@dataclass(eq=False)
class PartWriter:
    """Appends rows to a bank; every 128 MiB or 30 s of them become a part.

    Until then rows are held in memory. A part is written to a ``*.partial`` file, synced to disk
    and then renamed, so that every file with a part's name is complete; the name contains the hash
    of its bytes. A thread writes one part while the next one is filled, so that at most two parts
    are in memory and can be lost. If the work ends early, for any reason but a failed write, the
    rows appended so far are saved, and signals wait until then.

    Parameters
    ----------
    folder : Path
        Folder of the parts.
    fingerprint : str
        Fingerprint of the bank.
    dtype : str
        ``float16`` or ``float32``.
    compress : str
        ``none``, ``lz4`` or ``zstd``.
    part_bytes, part_seconds : int, float
        Maximum size of a part, in memory and then on disk, and its maximum age.
    """

    folder: Path
    fingerprint: str
    dtype: str
    _: KW_ONLY
    compress: str = "none"
    part_bytes: int
    part_seconds: float

    def __post_init__(self) -> None:
        self._columns: dict[str, np.ndarray] = {}
        self._committer = ThreadPoolExecutor(1)
        self._under_way: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        with signals_held(), self._committer:
            if not isinstance(error, CacheError):
                self._commit()
                self._wait()

    def append(
        self,
        digests: Sequence[str] | np.ndarray,
        features: Mapping[str, np.ndarray],
        *,
        views: int | np.ndarray = 0,
    ) -> None:
        """Add rows.

        Parameters
        ----------
        digests : sequence of str, or np.ndarray
            n digests, hexadecimal or uint8 of shape (n, 32).
        features : mapping of str to np.ndarray
            Layer to activations of shape (n, ...).
        views : int, or np.ndarray
            View number of all rows, or of each.

        Raises
        ------
        UsageError
            A digest or view is invalid; or the layers or their shapes differ from earlier rows.
        FeatureOverflowError
            See `store`; none of these rows is added.
        CacheError
            The previous part cannot be written, such as on a full disk.
        """
        columns = {
            f"features/{layer}": store(values, self.dtype, layer)
            for layer, values in features.items()
        }
        columns["digest"] = digest_rows(digests)
        given = np.broadcast_to(np.asarray(views), len(digests))
        columns["view"] = given.astype(np.uint16)
        if (columns["view"] != given).any():
            raise UsageError(f"each view must be a number from 0 to {2**16 - 1}")
        self._check(columns)
        done = 0
        while done < len(digests):
            if not self._columns:
                self._begin(columns)
            fits = min(len(digests) - done, self._capacity - self._rows)
            for name, column in self._columns.items():
                column[self._rows : self._rows + fits] = columns[name][done : done + fits]
            self._rows += fits
            done += fits
            old = time.monotonic() - self._started >= self.part_seconds
            if old or self._rows == self._capacity:
                self._commit()

    def _check(self, columns: Mapping[str, np.ndarray]) -> None:
        count = len(columns["digest"])
        for name, values in columns.items():
            if len(values) != count:
                raise UsageError(
                    f"{name} has {counted(len(values), 'row')}, expected one for each of "
                    f"{counted(count, 'image')}"
                )
        shapes = {name: values.shape[1:] for name, values in columns.items()}
        before = {name: column.shape[1:] for name, column in self._columns.items()}
        if before and shapes != before:
            raise UsageError(f"rows of shapes {shapes} do not match the earlier rows, of {before}")

    def _begin(self, columns: Mapping[str, np.ndarray]) -> None:
        """Allocate a part; the system provides memory only where something is written."""
        width = sum(map(row_bytes, columns.values()))
        self._capacity = max(1, self.part_bytes // width)
        self._rows = 0  # before there are columns, should an interruption come between
        self._started = time.monotonic()
        self._columns = {
            name: np.empty((self._capacity, *values.shape[1:]), values.dtype)
            for name, values in columns.items()
        }

    def _commit(self) -> None:
        """Write the rows in the background, once the previous part is written."""
        self._wait()
        with signals_held():
            # An interruption may have come between two columns of the last rows.
            columns = {name: column[: self._rows] for name, column in self._columns.items()}
            self._columns = {}
            if columns and self._rows:
                self._under_way = self._committer.submit(self._write, columns)

    def _wait(self) -> None:
        if self._under_way is not None:
            self._under_way.result()

    def _write(self, columns: Mapping[str, np.ndarray]) -> None:
        pieces = list(self._pieces(columns))
        content = xxh3_64()
        for piece in pieces:
            content.update(piece)
        with errors_of(self.folder):
            last = part_files(self.folder)[-1:]
            number = int(last[0].name.partition("-")[0]) + 1 if last else 1
            # Two writers get the same name only for the same content.
            atomic_write(self.folder / f"{number:06d}-{content.hexdigest()[:8]}.h5", pieces)

    def _pieces(self, columns: Mapping[str, np.ndarray]) -> Iterator[memoryview]:
        """Yield the bytes of a part."""
        datasets = {name: Dataset.of(columns[name]) for name in _KEYS}
        layers = {
            name.removeprefix("features/"): values
            for name, values in columns.items()
            if name not in _KEYS
        }
        for layer, values in layers.items():
            per_block = layout.block_rows(row_bytes(values))
            sums = Dataset.of(layout.checksums(values), rows_per_block=per_block)
            datasets[f"checksums/{layer}"] = sums
            options = layout.compression_options(self.compress, values)
            datasets[f"features/{layer}"] = Dataset.of(
                values, options, layer=layer, shape=values.shape[1:]
            )
        attributes = {
            "schema": SCHEMA,
            "fingerprint": self.fingerprint,
            "compress": self.compress,
            "seal": layout.seal_of(self.fingerprint, layers, columns["digest"], columns["view"]),
        }
        yield from layout.hdf5_pieces(datasets, attributes)
