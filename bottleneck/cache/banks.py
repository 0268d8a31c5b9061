"""The cache folder and its banks."""

import io
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bottleneck.cache import parts
from bottleneck.cache.parts import HDF5_FORMAT, Part, PartWriter, errors_of, part_files
from bottleneck.errors import CacheError, UnknownNameError, UsageError, did_you_mean
from bottleneck.files import atomic_write, read_json, slug, stale_paths, write_json

__all__ = ["Bank", "Cache"]

_VIEW_FILE = "features.h5"
_LONGEST_NAME = 200
_RUN_SCHEMA = 2


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

    def find_banks(self, name: str) -> tuple["Bank", ...]:
        """Return the banks whose names begin so: a model's name finds all of its banks.

        Raises
        ------
        UnknownNameError
            There is none.
        """
        banks = self.banks()
        found = tuple(bank for bank in banks if bank.name.startswith(name))
        if not found:
            names = [bank.name for bank in banks]
            raise UnknownNameError(
                f"no bank {name!r} in {str(self.root)!r}{did_you_mean(name, names)}; expected one "
                f"of {', '.join(names) or 'none, as the cache is empty'}"
            )
        return found

    def set_file(self, name: str) -> Path:
        """Return the path of an image set's CSV file.

        Raises
        ------
        UsageError
            The name is too long for a file.
        """
        if len(os.fsencode(name)) > _LONGEST_NAME:
            raise UsageError(
                f"the image set's name {name!r} is too long for a file; give another with --set"
            )
        return self.root / "sets" / f"{name}.csv"

    def record_run(self, record: Mapping[str, Any]) -> Path:
        """Keep what an extraction did, under ``runs/``."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        path = self.root / "runs" / f"{stamp}-{secrets.token_hex(2)}.json"
        _write(path, {"schema": _RUN_SCHEMA, **record})
        return path

    def runs(self) -> list[dict[str, Any]]:
        """Return the records of all extractions, oldest first; not those of other versions."""
        files = sorted((self.root / "runs").glob("*.json"))
        records = [_read(path) for path in files]
        return [record for record in records if record.pop("schema", None) == _RUN_SCHEMA]

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
        return _read(self._info_file)

    def describes(self, layer: str) -> bool:
        """Whether ``bank.json`` is there and knows a layer."""
        return self.exists and layer in self.info["layers"]

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
        _write(self._info_file, info)

    def parts(self) -> list[Part]:
        """Return the parts, oldest first.

        Raises
        ------
        CacheError
            A part cannot be read.
        """
        fingerprint = self.name.rpartition("-")[2]
        return [Part(path, fingerprint) for path in self._part_files()]

    def known(self, layer: str) -> set[tuple[str, int]]:
        """Return the (digest, view) keys of the rows that hold a layer."""
        return {key for part in self.parts() if layer in part.layers for key in part.keys}

    def read(
        self,
        layer: str,
        digests: Sequence[str],
        *,
        convert: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> np.ndarray:
        """Read a layer's features of the plain images in exactly the order asked for.

        Every block's checksum is verified.

        Parameters
        ----------
        layer : str
            The layer's own name, not its alias.
        digests : sequence of str
            May repeat.
        convert : callable, optional
            Takes some rows (m, ...) as stored and returns what to keep of them (m, ...), so that
            what is pooled need not fit into memory whole.

        Returns
        -------
        np.ndarray
            Shape (n, ...), in the type stored or converted to.

        Raises
        ------
        CacheError
            A row is not in the bank, or a part is damaged.
        """
        wanted: dict[tuple[str, int], list[int]] = {}
        for place, digest in enumerate(digests):
            wanted.setdefault((digest, 0), []).append(place)
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
            for stored, block in part.read(layer, rows):
                values = convert(stored) if convert else stored
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

    def writer(self, dtype: str, *, share: int = 1) -> PartWriter:
        """Return a writer of new parts; use it as a context manager.

        Parameters
        ----------
        dtype : str
            ``float16`` or ``float32``.
        share : int
            Writers among which the memory for parts is shared.
        """
        for path in stale_paths(self.path / "parts", ".*.partial"):
            path.unlink(missing_ok=True)  # another writer removes it, too
        info = self.info
        attributes = {key: info[key] for key in ("schema", "fingerprint")}
        part_bytes = parts.PART_BYTES // share
        return PartWriter(self.path / "parts", attributes, dtype, part_bytes=part_bytes)

    @property
    def has_view_file(self) -> bool:
        """Whether ``features.h5`` has been written."""
        return (self.path / _VIEW_FILE).exists()

    def rebuild_view_file(self) -> None:
        """Write ``features.h5``: virtual datasets over all parts, for any HDF5 tool.

        For each layer there are ``/features/<layer>``, ``/digest/<layer>`` and ``/view/<layer>``,
        with one row per stored row. The parts are named relative to the bank, which may be moved.
        """
        found = self.parts()
        layers = sorted({layer for part in found for layer in part.layers})
        content = io.BytesIO()
        with h5py.File(content, "w", libver=HDF5_FORMAT) as file:
            for layer in layers:
                holders = [part for part in found if layer in part.layers]
                for group, source in (
                    ("features", f"features/{layer}"),
                    ("digest", "digest"),
                    ("view", "view"),
                ):
                    layout = _stack(holders, source, self.path)
                    file.create_virtual_dataset(f"{group}/{layer}", layout)
        with errors_of(self.path):
            atomic_write(self.path / _VIEW_FILE, content.getbuffer())

    def _part_files(self) -> list[Path]:
        return part_files(self.path / "parts")


def _stack(parts: Sequence[Part], source: str, folder: Path) -> h5py.VirtualLayout:
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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with errors_of(path):
        write_json(path, content)


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise CacheError(
            f"{str(path)!r} cannot be read ({error}); restore it, or move it away and extract again"
        ) from error
