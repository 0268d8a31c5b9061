"""The feature cache: HDF5 banks made of immutable parts. No torch in it.

Layout and promises are described in ``cache/README.md``.
"""

import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np

from bottleneck.errors import CacheError, FeatureOverflowError, UnknownNameError, did_you_mean
from bottleneck.files import atomic_write, fsync_folder

__all__ = ["Bank", "Cache", "PartWriter", "slug", "store"]

PART_BYTES = 256 * 2**20
PART_SECONDS = 60.0
_VIEW_FILE = "features.h5"
_CHUNK_BYTES = 2**20
_FORMAT = ("v110", "v110")  # the first HDF5 with virtual datasets: old tools can read it


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


class Cache:
    """The folder of all banks, image sets and run records.

    Parameters
    ----------
    root : str or Path
        Made at the first write.
    """

    def __init__(self, root: str | Path = "cache") -> None:
        self.root = Path(root)

    def bank(self, model: str, fingerprint: str) -> "Bank":
        """Return the bank of a fingerprint, which need not exist yet."""
        return Bank(self.root / f"{slug(model)}-{fingerprint[:12]}")

    def banks(self) -> tuple["Bank", ...]:
        """Return all banks, by name."""
        return tuple(Bank(path.parent) for path in sorted(self.root.glob("*/bank.json")))

    def find_bank(self, name: str) -> "Bank":
        """Return the bank whose name begins so.

        Raises
        ------
        UnknownNameError
            There is none, or more than one.
        """
        names = [bank.name for bank in self.banks()]
        found = [each for each in names if each == name] or [
            each for each in names if each.startswith(name)
        ]
        if len(found) != 1:
            problem = f"{len(found)} banks whose names begin with" if found else "no bank"
            raise UnknownNameError(
                f"{problem} {name!r} in {str(self.root)!r}{did_you_mean(name, names)}; expected "
                f"one of {', '.join(names) or 'none, as the cache is empty'}"
            )
        return Bank(self.root / found[0])

    def set_file(self, name: str) -> Path:
        """Return the path of an image set's CSV file."""
        return self.root / "sets" / f"{name}.csv"

    def record_run(self, record: Mapping[str, Any]) -> Path:
        """Keep what an extraction did, under ``runs/``."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        path = self.root / "runs" / f"{stamp}-{secrets.token_hex(2)}.json"
        _write_json(path, record)
        return path

    def runs(self) -> list[dict[str, Any]]:
        """Return the records of all extractions, oldest first."""
        return [_read_json(path) for path in sorted((self.root / "runs").glob("*.json"))]

    def check_writable(self) -> None:
        """Raise `CacheError` unless files can be written into the cache folder."""
        probe = self.root / f".{secrets.token_hex(4)}.partial"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise CacheError(
                f"cannot write to the cache folder {str(self.root)!r} ({error.strerror}); choose "
                f"another with --cache"
            ) from error


class Bank:
    """All features that one fingerprint has computed.

    Parameters
    ----------
    path : Path
        ``cache/<model>-<first 12 of the fingerprint>/``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.path.name

    @property
    def exists(self) -> bool:
        """Whether the bank has been made."""
        return self._info_file.exists()

    @property
    def info(self) -> dict[str, Any]:
        """The content of ``bank.json``: provenance, layers and canary."""
        return _read_json(self._info_file)

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(path.stat().st_size for path in self._part_files())

    @property
    def _info_file(self) -> Path:
        return self.path / "bank.json"

    def describe_layer(
        self, provenance: Mapping[str, Any], layer: str, details: Mapping[str, Any]
    ) -> None:
        """Make the bank if need be, and add or replace what ``bank.json`` says of a layer."""
        info = self.info if self.exists else {**provenance, "created": _now(), "layers": {}}
        info["layers"][layer] = dict(details)
        _write_json(self._info_file, info)

    def parts(self) -> list["_Part"]:
        """Return the parts, oldest first.

        Raises
        ------
        CacheError
            A part cannot be read.
        """
        return [_Part(path) for path in self._part_files()]

    def known(self, layer: str) -> set[tuple[str, int]]:
        """Return the (digest, view) keys of the rows that hold a layer."""
        return {key for part in self.parts() if layer in part.layers for key in part.keys}

    def read(
        self, layer: str, digests: Sequence[str], views: Sequence[int] | None = None
    ) -> np.ndarray:
        """Read a layer's features in exactly the order asked for.

        Every block's checksum is verified.

        Parameters
        ----------
        layer : str
            The layer's own name, not its alias.
        digests : sequence of str
            May repeat.
        views : sequence of int, optional
            One for each digest; 0, the plain image, by default.

        Returns
        -------
        np.ndarray
            Shape (n, ...), in the type stored.

        Raises
        ------
        CacheError
            A row is not in the bank, or a part is damaged.
        """
        wanted: dict[tuple[str, int], list[int]] = {}
        for place, key in enumerate(zip(digests, views or [0] * len(digests), strict=True)):
            wanted.setdefault(key, []).append(place)
        result: np.ndarray | None = None
        for part in self.parts():
            if layer not in part.layers:
                continue
            rows: list[int] = []
            places: list[list[int]] = []
            for row, key in enumerate(part.keys):
                if key in wanted:
                    rows.append(row)
                    places.append(wanted.pop(key))
            for values, block in part.read(layer, rows):
                if result is None:
                    result = np.empty((len(digests), *values.shape[1:]), values.dtype)
                for value, index in zip(values, block, strict=True):
                    result[places[index]] = value
        if wanted or result is None:
            raise CacheError(
                f"{len(wanted)} of {len(digests)} images have no {layer!r} in bank {self.name}; "
                f"run 'bottleneck extract' for them"
            )
        return result

    def writer(self, dtype: str) -> "PartWriter":
        """Return a writer of new parts; use it as a context manager."""
        return PartWriter(self, dtype)

    @property
    def has_view_file(self) -> bool:
        """Whether ``features.h5`` has been written."""
        return (self.path / _VIEW_FILE).exists()

    def rebuild_view_file(self) -> None:
        """Write ``features.h5``: virtual datasets over all parts, for any HDF5 tool.

        For each layer there are ``/features/<layer>``, ``/digest/<layer>`` and ``/view/<layer>``,
        with one row per stored row. The parts are named relative to the bank, which may be moved.
        """
        parts = self.parts()
        layers = sorted({layer for part in parts for layer in part.layers})
        temporary = self.path / f".features.{secrets.token_hex(4)}.partial"
        try:
            with _errors_of(self.path), h5py.File(temporary, "w", libver=_FORMAT) as file:
                for layer in layers:
                    holders = [part for part in parts if layer in part.layers]
                    for group, source in (
                        ("features", f"features/{layer}"),
                        ("digest", "digest"),
                        ("view", "view"),
                    ):
                        file.create_virtual_dataset(
                            f"{group}/{layer}", _stack(holders, source, self.path)
                        )
            temporary.replace(self.path / _VIEW_FILE)
        finally:
            temporary.unlink(missing_ok=True)

    def _part_files(self) -> list[Path]:
        return sorted((self.path / "parts").glob("*.h5"))

    def next_part(self) -> Path:
        """Return an unused path for a new part; two writers never get the same."""
        numbers = [int(path.name.partition("-")[0]) for path in self._part_files()]
        number = max(numbers, default=0) + 1
        return self.path / "parts" / f"{number:06d}-{secrets.token_hex(4)}.h5"


@dataclass(frozen=True)
class _Part:
    """One immutable file of a bank."""

    path: Path

    @cached_property
    def _header(self) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
        with _errors_of(self.path), h5py.File(self.path, "r", locking=False) as file:
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
        with _errors_of(self.path), h5py.File(self.path, "r", locking=False) as file:
            data = file[f"features/{layer}"]
            step = max(1, 16 * _CHUNK_BYTES // _row_bytes(data.shape, data.dtype))
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

    A part is written as ``*.partial``, closed, synced to disk and then renamed, so that whatever
    has a part's name is whole. When the work ends early, the rows appended so far are kept unless
    writing itself failed.

    Parameters
    ----------
    bank : Bank
        Where the parts go.
    dtype : str
        ``float16`` or ``float32``.
    """

    def __init__(self, bank: Bank, dtype: str) -> None:
        self._bank = bank
        self._dtype = dtype
        self._file: h5py.File | None = None
        self._path = bank.path
        self._started = 0.0
        self.rows = 0
        self.bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and not isinstance(error, CacheError):
            self._discard()
        else:
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
            The disk is full or the folder cannot be written; the part begun is removed.
        """
        columns: dict[str, np.ndarray] = {
            f"features/{layer}": store(values, self._dtype, layer)
            for layer, values in features.items()
        }
        columns["digest"] = np.array([list(bytes.fromhex(each)) for each in digests], np.uint8)
        columns["view"] = np.zeros(len(digests), np.uint16)
        try:
            with _errors_of(self._path):
                if self._file is None:
                    self._begin(columns)
                for name, values in columns.items():
                    _extend(self._file[name], values)  # type: ignore[index]
        except BaseException:
            self._discard()
            raise
        self.rows += len(digests)
        self.bytes += sum(values.nbytes for values in columns.values())
        if self._part_bytes() >= PART_BYTES or time.monotonic() - self._started >= PART_SECONDS:
            self._commit()

    def _begin(self, columns: Mapping[str, np.ndarray]) -> None:
        final = self._bank.next_part()
        final.parent.mkdir(parents=True, exist_ok=True)
        self._path = final.with_name(f"{final.name}.partial")
        self._file = h5py.File(self._path, "w", libver=_FORMAT, locking=False)
        self._file.attrs["schema"] = self._bank.info["schema"]
        self._file.attrs["fingerprint"] = self._bank.info["fingerprint"]
        self._started = time.monotonic()
        for name, values in columns.items():
            shape = values.shape[1:]
            rows = max(1, min(1024, _CHUNK_BYTES // _row_bytes(values.shape, values.dtype)))
            dataset = self._file.create_dataset(
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

    def _part_bytes(self) -> int:
        if self._file is None:
            return 0
        return sum(data.nbytes for data in self._file["features"].values())

    def _commit(self) -> None:
        if self._file is None:
            return
        try:
            with _errors_of(self._path):
                self._file.close()
                self._file = None
                with self._path.open("rb+") as written:
                    os.fsync(written.fileno())
                self._path.rename(self._path.with_suffix(""))
                fsync_folder(self._path.parent)
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        if self._file is not None:
            with suppress(OSError, RuntimeError):  # closing flushes, which fails on a full disk
                self._file.close()
            self._file = None
        if self._path.name.endswith(".partial"):
            self._path.unlink(missing_ok=True)


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Turn HDF5's and the system's errors into one sentence about a file."""
    try:
        yield
    except CacheError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if "checksum" in reason or "Fletcher32" in reason:
            reason = "a block's checksum does not match: the file is damaged"
        remedy = (
            "move it away and extract again: its rows will be computed anew"
            if path.suffix == ".h5"
            else "see to the space and the rights there, then extract again: what was committed is "
            "kept"
        )
        raise CacheError(f"{str(path)!r} failed ({reason}); {remedy}") from error
    except KeyError as error:
        raise CacheError(
            f"{str(path)!r} is not a part of a bank ({error.args[0]}); move it away and extract "
            f"again: its rows will be computed anew"
        ) from error


def _extend(data: h5py.Dataset, values: np.ndarray) -> None:
    before = data.shape[0]
    data.resize(before + len(values), axis=0)
    data[before:] = values


def _stack(parts: Sequence[_Part], source: str, folder: Path) -> h5py.VirtualLayout:
    sources = []
    for part in parts:
        with h5py.File(part.path, "r", locking=False) as file:
            data = file[source]
            name = part.path.relative_to(folder).as_posix()
            sources.append(h5py.VirtualSource(name, source, data.shape, data.dtype))
    total = sum(each.shape[0] for each in sources)
    layout = h5py.VirtualLayout((total, *sources[0].shape[1:]), sources[0].dtype)
    start = 0
    for each in sources:
        layout[start : start + each.shape[0]] = each
        start += each.shape[0]
    return layout


def _row_bytes(shape: Sequence[int], dtype: np.dtype) -> int:
    return int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize or 1


def slug(name: str) -> str:
    """Return a name with what does not belong into a file's name replaced by ``-``."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with _errors_of(path):
        atomic_write(path, json.dumps(content, indent=2) + "\n")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CacheError(
            f"{str(path)!r} cannot be read ({error}); restore it, or remove its folder and extract "
            f"again"
        ) from error
    return content
