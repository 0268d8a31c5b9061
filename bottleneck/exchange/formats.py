"""Features out of the cache into a plain file, HDF5 or ``.npz``, which is checked when read."""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import IO, Any, Final, cast

import h5py
import numpy as np

from bottleneck.cache import Bank, Cache, Dataset, hdf5_pieces
from bottleneck.errors import CacheError, DataError, UsageError
from bottleneck.features import vectors
from bottleneck.files import atomic_write
from bottleneck.images import ImageItem, ImageSet
from bottleneck.records import ExportRecord, FeatureSource, parse_record

__all__ = ["Exchange", "blocks_of", "errors_of", "export_features", "read_exported"]

_BLOCK_BYTES = 2**24
_FORMAT: Final = 2
"""Raised whenever files of before cannot be read any more."""
_UNREADABLE = (
    *(OSError, LookupError, ValueError, TypeError, AttributeError, EOFError),
    *(RecursionError, NotImplementedError, zlib.error, zipfile.BadZipFile),
)
"""What h5py, NumPy and zipfile raise where a file is damaged or not what it seems."""
_TEXTS = ("paths", "labels", "splits", "digests")

_Content = tuple[
    dict[str, list[str]], str, str, tuple[int, ...], Callable[[], Iterator[np.ndarray]]
]
"""Texts, provenance, digest, shape and blocks of the features."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """What was exported or imported.

    Attributes
    ----------
    file : str
        The plain file.
    image_set, model, layer, bank : str
        What its features are.
    images : int
        Rows.
    added : int or None
        Different rows that were new to the cache; None for an export.
    shape : list of int
        Of a row.
    dtype : str
        Of the values.
    """

    file: str
    image_set: str
    model: str
    layer: str
    bank: str
    images: int
    added: int | None = None
    shape: list[int]
    dtype: str

    @classmethod
    def of(cls, selection: FeatureSource, file: Path, **facts: Any) -> "Exchange":
        """Return what was exported or imported of a selection, and what else is known of it."""
        return cls(
            file=str(file),
            image_set=selection.image_set,
            model=selection.model,
            layer=selection.layer_name,
            bank=selection.bank,
            **facts,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON holds it."""
        return asdict(self)


@dataclass(frozen=True)
class Exported:
    """What an exported file holds; `blocks` yields the features again at each call."""

    texts: Mapping[str, list[str]]
    record: ExportRecord
    shape: tuple[int, ...]
    blocks: Callable[[], Iterator[np.ndarray]]

    def images(self, name: str) -> ImageSet:
        """Return the image set."""
        columns = (self.texts[key] for key in ("paths", "digests", "labels", "splits"))
        items = (
            ImageItem(path, digest, label or None, split or None)
            for path, digest, label, split in zip(*columns, strict=True)
        )
        return ImageSet(name, tuple(items))


def export_features(cache: Cache, selection: FeatureSource, file: str | Path) -> Exchange:
    """Write a layer's features of an image set, with paths, labels and splits, to one file.

    The file holds ``features`` (n, ...), and ``paths``, ``labels``, ``splits`` and ``digests`` as
    texts (n,), in the order of the image set; ``provenance`` is JSON. It is made in bounded memory.

    Parameters
    ----------
    cache : Cache
        Where they are.
    selection : FeatureSource
        Which they are. As stored, or float32 where they are pooled otherwise than they are stored.
    file : str or Path
        Ends in ``.h5``, ``.hdf5`` or ``.npz``. Replaced if it exists.

    Raises
    ------
    UsageError
        The ending is another.
    CacheError
        A row is missing or damaged, or the file cannot be written.
    """
    target = Path(file)
    write = _writer_of(target)
    images = ImageSet.read_csv(cache.set_file(selection.image_set))
    bank, *_ = cache.banks_of(selection)
    digests = [item.digest for item in images.items]
    convert = None if selection.pool == selection.stored_pool else partial(vectors, selection)
    first = bank.read(selection.layer, digests[:1], convert=convert)
    blocks = _Rows(bank, selection.layer, digests, convert)
    features = Dataset((len(digests), *first.shape[1:]), first.dtype, blocks)
    texts = {
        "paths": [item.path for item in images.items],
        "labels": [item.label or "" for item in images.items],
        "splits": [item.split or "" for item in images.items],
        "digests": digests,
    }
    info = bank.info
    described = replace(info, layers={selection.layer: info.layers[selection.layer]})
    provenance = ExportRecord(format=_FORMAT, selection=selection, bank=described).as_dict()
    try:
        atomic_write(target, write(features, texts, json.dumps(provenance)))
    except CacheError:
        raise
    except OSError as error:
        raise CacheError(
            f"{str(target)!r} cannot be written ({error.strerror}); check free disk space and "
            f"permissions, or name another file"
        ) from error
    return Exchange.of(
        selection, target, images=len(digests), shape=list(first.shape[1:]), dtype=str(first.dtype)
    )


@dataclass(frozen=True)
class _Rows:
    """Rows of a bank, read anew whenever they are gone through."""

    bank: Bank
    layer: str
    digests: Sequence[str]
    convert: Callable[[np.ndarray], np.ndarray] | None

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.bank.stream(self.layer, self.digests, memory=_BLOCK_BYTES, convert=self.convert)


def _writer_of(path: Path) -> Callable[..., Iterator[memoryview]]:
    """Return what yields a file of that ending; `UsageError` where there is none."""
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder; name a file in it")
    if path.suffix.lower() in {".h5", ".hdf5"}:
        return _hdf5
    if path.suffix.lower() == ".npz":
        return _npz
    raise UsageError(f"{str(path)!r} has the ending {path.suffix!r}; expected .h5, .hdf5 or .npz")


def _hdf5(
    features: Dataset, texts: Mapping[str, list[str]], provenance: str
) -> Iterator[memoryview]:
    """Yield an HDF5 file; the features are read twice, the first time for the digest."""
    columns = {key: np.array([text.encode() for text in texts[key]]) for key in _TEXTS}
    datasets = {"features": features}
    for key, column in columns.items():
        dtype = h5py.string_dtype("utf-8", max(1, column.itemsize))
        datasets[key] = Dataset(column.shape, dtype, [column])
    seal = _seal(features.blocks, texts, provenance)
    yield from hdf5_pieces(datasets, {"provenance": provenance, "sha256": seal})


def _npz(
    features: Dataset, texts: Mapping[str, list[str]], provenance: str
) -> Iterator[memoryview]:
    """Yield a ``.npz`` file, a zip of ``.npy`` files; the features are read twice, too."""
    columns = {key: np.array(texts[key]) for key in _TEXTS}
    columns["provenance"] = np.array(provenance)
    columns["sha256"] = np.array(_seal(features.blocks, texts, provenance))
    datasets = {"features": features}
    datasets |= {key: Dataset.of(column) for key, column in columns.items()}
    stream = _Pieces()
    with zipfile.ZipFile(cast("IO[bytes]", stream), "w") as archive:
        for name, each in datasets.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                description = {
                    "descr": np.lib.format.dtype_to_descr(each.dtype),
                    "fortran_order": False,
                    "shape": each.shape,
                }
                np.lib.format.write_array_header_2_0(entry, description)
                for block in each.blocks:
                    entry.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
                    yield from stream.taken()
    yield from stream.taken()


class _Pieces(io.RawIOBase):
    """A stream that keeps what is written until it is taken."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def taken(self) -> list[memoryview]:
        pieces, self._pieces = self._pieces, []
        return [memoryview(piece) for piece in pieces]


def _seal(blocks: Iterable[np.ndarray], texts: Mapping[str, list[str]], provenance: str) -> str:
    """Return the SHA-256 over all that a file holds."""
    described = [[texts[key] for key in _TEXTS], provenance]
    content = hashlib.sha256(json.dumps(described).encode())
    for block in blocks:
        content.update(np.ascontiguousarray(block).data)
    return content.hexdigest()


def read_exported(path: Path) -> Exported:
    """Read a file that `_writer_of` wrote, and verify its digest; see `errors_of`."""
    read = _read_npz if path.suffix.lower() == ".npz" else _read_hdf5
    texts, provenance, seal, shape, blocks = read(path)
    if seal != _seal(blocks(), texts, provenance):
        raise ValueError("its content does not match its digest")
    return Exported(texts, parse_record(json.loads(provenance), ExportRecord), shape, blocks)


def _read_npz(path: Path) -> _Content:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        features = arrays["features"]
        texts = {key: arrays[key].tolist() for key in _TEXTS}
        provenance, seal = str(arrays["provenance"]), str(arrays["sha256"])
    return texts, provenance, seal, features.shape, lambda: blocks_of(features)


def _read_hdf5(path: Path) -> _Content:
    with h5py.File(path, "r", locking=False) as file:
        texts = {key: [text.decode() for text in file[key][:].tolist()] for key in _TEXTS}
        provenance, seal = (file.attrs[key].decode() for key in ("provenance", "sha256"))
        shape = file["features"].shape

    def blocks() -> Iterator[np.ndarray]:
        with h5py.File(path, "r", locking=False) as file:
            yield from blocks_of(file["features"])

    return texts, provenance, seal, shape, blocks


def blocks_of(rows: Any) -> Iterator[np.ndarray]:
    """Yield rows, a few megabytes at a time."""
    step = max(1, _BLOCK_BYTES // max(1, prod(rows.shape[1:]) * rows.dtype.itemsize))
    for start in range(0, len(rows), step):
        yield np.ascontiguousarray(rows[start : start + step])


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Turn what a damaged or foreign file raises into one sentence."""
    try:
        yield
    except _UNREADABLE as error:
        reason = str(error) or type(error).__name__
        raise DataError(
            f"{str(path)!r} cannot be read as exported features ({reason}); give a file that "
            f"'bottleneck cache export' wrote, or a .npy array with `table`"
        ) from error
