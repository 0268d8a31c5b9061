"""A bank: all features with one fingerprint."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from bottleneck.cache import writer as writers
from bottleneck.cache.hdf5 import errors_of
from bottleneck.cache.index_file import opened_parts, write_index
from bottleneck.cache.own import INFO_LOCK, is_partial
from bottleneck.cache.parts import Part, RowIndex, as_slice, keys_of, part_files
from bottleneck.cache.view_file import shows, view_file_content
from bottleneck.cache.writer import PartWriter, digest_rows
from bottleneck.errors import CacheError, UsageError
from bottleneck.files import atomic_write
from bottleneck.folders import remove_stale
from bottleneck.locks import locked
from bottleneck.records import BankRecord, read_record, write_record

__all__ = ["Bank"]

_ATTEMPTS = 1000
"""Number of times that parts may be replaced during a read before it fails."""
_CANARY_TOLERANCES = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1}
"""Tolerance relative to the magnitude, as another order of summation changes large values."""
_STREAM_BYTES, _STREAM_OVERHEAD = 2**28, 2**22
"""Default memory of a stream, and what buffers and Python objects take of it."""

Convert = Callable[[np.ndarray], np.ndarray]
"""Takes rows (m, ...) as stored and returns what to keep of them (m, ...)."""
_T = TypeVar("_T")


class Bank:
    """All features with one fingerprint.

    While a bank is read, parts may be added, or replaced by others with the same rows.

    Parameters
    ----------
    path : Path
        ``cache/<model>-<first 12 of the fingerprint>/``.
    made_by : str
        The command that stores rows which are missing.

    Attributes
    ----------
    path, name : Path, str
        The folder and its name.
    info_file, view_file : Path
        ``bank.json`` and ``features.h5``.
    opened : dict of Path to Part
        The parts that were there when rows were last looked for.
    """

    def __init__(self, path: Path, made_by: str = "bottleneck extract") -> None:
        self.path, self.name, self.made_by = path, path.name, made_by
        self.info_file, self.view_file = path / "bank.json", path / "features.h5"
        self.opened: dict[Path, Part] = {}
        self._indexes: dict[str, RowIndex] = {}

    @property
    def exists(self) -> bool:
        """Whether the bank has been created."""
        return self.info_file.exists()

    @property
    def is_linked(self) -> bool:
        """Whether the parts are elsewhere, behind a link, so that none may be removed."""
        return self.path.is_symlink() or (self.path / "parts").is_symlink()

    @property
    def info(self) -> BankRecord:
        """The content of ``bank.json``; `DamagedError` if it has been changed."""
        return read_record(self.info_file, BankRecord)

    def describes(self, layer: str) -> bool:
        """Whether ``bank.json`` exists and describes a layer."""
        return self.exists and layer in self.info.layers

    def describe(self, record: BankRecord, *, moved: bool = False) -> None:
        """Create the bank if necessary; add or replace `layers` and `seen` in ``bank.json``.

        Also the `model`, if its folder has been `moved`.
        """
        created = datetime.now(UTC).isoformat(timespec="seconds")
        with self._info_locked():
            info = self.info if self.exists else replace(record, created=created)
            seen = info.seen if record.seen is None else record.seen
            model = record.model if moved else info.model
            layers = info.layers | record.layers
            write_record(self.info_file, replace(info, model=model, layers=layers, seen=seen))

    def check_canary(self, layer: str, found: Sequence[Sequence[float]]) -> None:
        """Compare reference features with those computed now; `CacheError` if they differ."""
        info = self.info
        expected, actual = np.atleast_2d(info.layers[layer].canary), np.atleast_2d(found)
        if expected.shape != actual.shape:
            difference = f"their shapes are {expected.shape} and {actual.shape}"
        else:
            magnitude = expected[:, :1] + np.finfo(np.float32).tiny
            gap = float((np.abs(expected - actual) / magnitude).max(initial=0))
            if gap <= _CANARY_TOLERANCES[info.precision.get("compute", "fp32")]:
                return
            difference = f"they differ by {gap:.2g} of their magnitude"
        raise CacheError(
            f"the reference features of layer {layer!r} in bank {self.name} differ from those "
            f"computed now ({difference}), probably because a library has another version; use "
            f"another `cache`, or remove {str(self.path)!r} to recompute its features"
        )

    def forget_layer(self, layer: str) -> None:
        """Remove a layer from ``bank.json``."""
        with self._info_locked():
            info = self.info
            info.layers.pop(layer, None)
            write_record(self.info_file, info)

    @contextmanager
    def _info_locked(self) -> Iterator[None]:
        """Lock ``bank.json`` against other processes, only for as long as a rename takes."""
        with errors_of(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with locked(self.path / INFO_LOCK):
                yield

    def part_files(self) -> list[Path]:
        """Return the files of the parts, oldest first."""
        return part_files(self.path / "parts")

    @property
    def size(self) -> int:
        """Size of all parts in bytes."""
        return self._settled(lambda: sum(path.stat().st_size for path in self.part_files()))

    def parts(self) -> list[Part]:
        """Return the parts, oldest first.

        Raises
        ------
        CacheError
            A part cannot be read.
        """
        self.opened = self._settled(lambda: opened_parts(self.path, self.part_files(), self.opened))
        return list(self.opened.values())

    def index(self, layer: str) -> RowIndex:
        """Return an index of a layer's rows over all parts.

        Raises
        ------
        CacheError
            A part cannot be read.
        """
        parts, known = self.parts(), self._indexes.get(layer)
        if known is None or known.parts != parts:
            known = self._indexes[layer] = RowIndex(parts, layer)
        return known

    def holds(self, layer: str, digests: Sequence[str], *, view: int = 0) -> np.ndarray:
        """Return for each image whether the bank has its row of a layer: bool of shape (n,)."""
        return self.index(layer).find(keys_of(digest_rows(digests), view)) >= 0

    def known(self, layer: str) -> set[tuple[str, int]]:
        """Return the (digest, view) keys of the rows of a layer."""
        keys = self.index(layer).keys
        rows = keys.view(np.uint8).reshape(len(keys), keys.itemsize)
        return {(bytes(row[:-2]).hex(), int(row[-2]) << 8 | int(row[-1])) for row in rows}

    def parts_with(
        self, layer: str, digests: Sequence[str], *, view: int | np.ndarray = 0
    ) -> list[Path]:
        """Return the parts that `read` would read rows of a layer from."""
        index = self.index(layer)
        numbers = np.sort(index.find(keys_of(digest_rows(digests), view)))
        return [part.path for part, _, _ in index.by_part(numbers)]

    def read(
        self,
        layer: str,
        digests: Sequence[str],
        *,
        view: int | np.ndarray = 0,
        convert: Convert | None = None,
    ) -> np.ndarray:
        """Read a layer's features in exactly the given order.

        Every block's checksum is verified.

        Parameters
        ----------
        layer : str
            The layer's own name, not its alias.
        digests : sequence of str
            Digests of the images; may repeat.
        view : int, or np.ndarray
            View number of all rows, or of each; 0 is the unaugmented image.
        convert : callable, optional
            Applied to blocks of rows, so that only its results must fit into memory, such as after
            pooling.

        Returns
        -------
        np.ndarray
            Shape (n, ...), in the stored type or the type that `convert` returns.

        Raises
        ------
        CacheError
            A row is not in the bank, or a part is damaged.
        """
        keys = keys_of(digest_rows(digests), view)
        return self._settled(lambda: self._read(layer, keys, convert))

    def stream(
        self,
        layer: str,
        digests: Sequence[str],
        *,
        memory: int = _STREAM_BYTES,
        view: int | np.ndarray = 0,
        convert: Convert | None = None,
    ) -> Iterator[np.ndarray]:
        """Read as with `read`, in consecutive blocks.

        Parameters
        ----------
        layer, digests, view, convert
            As for `read`.
        memory : int
            Memory limit in bytes for the block just yielded, the next one, and the index of the
            bank's rows, about 120 bytes each. Blocks get a quarter of it where the index takes
            more than the rest, and have at least one row, whatever the limit.

        Yields
        ------
        np.ndarray
            The next rows in the given order; at least one.

        Raises
        ------
        CacheError
            A row is not in the bank, or a part is damaged.
        """
        wanted = keys_of(digest_rows(digests), view)
        self.index(layer).rows_of(wanted, self.name, self.made_by)  # not only of the first block
        spare = memory - 2 * wanted.nbytes - self.index(layer).nbytes - _STREAM_OVERHEAD
        spare = max(spare, memory // 4)  # for blocks, as a pass row by row would take hours
        done, count = 0, 1
        while done < len(wanted):
            some = wanted[done : done + count]
            block = self._settled(partial(self._read, layer, some, convert))
            done += len(block)
            count = max(1, spare // 2 // max(1, block[:1].nbytes))
            yield block

    def _read(self, layer: str, wanted: np.ndarray, convert: Convert | None) -> np.ndarray:
        if not len(wanted):
            raise UsageError(f"no images were requested; give at least one digest of {self.name}")
        index = self.index(layer)
        numbers = index.rows_of(wanted, self.name, self.made_by)
        order = np.argsort(numbers, kind="stable")
        result: np.ndarray | None = None
        for part, rows, among in index.by_part(numbers[order]):
            for stored, piece in part.read(layer, rows):
                values = convert(stored) if convert else stored
                if result is None:
                    result = np.empty((len(wanted), *values.shape[1:]), values.dtype)
                result[as_slice(order[among][piece])] = values
        assert result is not None  # noqa: S101 - every row was found in a part
        return result

    def writer(
        self,
        dtype: str,
        *,
        share: int = 1,
        compress: str = "none",
        part_seconds: float | None = None,
    ) -> PartWriter:
        """Return a writer of new parts; use it as a context manager.

        Parameters
        ----------
        dtype : str
            ``float16`` or ``float32``.
        share : int
            Number of writers that share the memory for parts.
        compress : str
            ``none``, ``lz4`` or ``zstd``.
        part_seconds : float, optional
            Maximum age of a part before it is written; `PART_SECONDS` by default.
        """
        if not self.is_linked:
            remove_stale(self.path / "parts", is_partial)
        return PartWriter(
            self.path / "parts",
            self.info.fingerprint,
            dtype,
            compress=compress,
            part_bytes=writers.PART_BYTES // share,
            part_seconds=writers.PART_SECONDS if part_seconds is None else part_seconds,
        )

    @property
    def view_file_is_old(self) -> bool:
        """Whether ``features.h5`` shows other parts than the current ones."""
        files = self.part_files()
        return bool(files) and not shows(self.view_file, files, self._aliases())

    def _aliases(self) -> dict[str, list[str]]:
        with suppress(OSError):  # a damaged ``bank.json`` has no names to tell
            return {layer: each.names for layer, each in self.info.layers.items()}
        return {}

    def rebuild_view_file(self, *, without: Collection[Path] = ()) -> None:
        """Write ``features.h5``: virtual datasets of all parts for other tools, by relative paths.

        Parameters
        ----------
        without : collection of Path
            Parts that are about to be removed.
        """
        while True:  # others may add parts meanwhile
            left = [part for part in self.parts() if part.path not in without]
            aliases = self._aliases()
            with errors_of(self.path):
                atomic_write(self.view_file, view_file_content(left, aliases))
            if shows(self.view_file, set(self.part_files()).difference(without), aliases):
                break
        with errors_of(self.path):
            write_index(self.path, left)

    def _settled(self, read: Callable[[], _T]) -> _T:
        """Repeat a read if a part has just been replaced by others with the same rows."""
        for _ in range(_ATTEMPTS):
            try:
                return read()
            except FileNotFoundError as error:
                gone = error
                time.sleep(0.001)
        raise CacheError(
            f"parts of bank {self.name} disappeared while they were read ({gone}); wait until "
            f"the command that removes them is done, then run this one again"
        ) from gone
