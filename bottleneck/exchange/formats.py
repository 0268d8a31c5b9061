"""Export features to a plain file, HDF5 or ``.npz``, and read it with verification."""

import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any, Self

import h5py
import numpy as np

from bottleneck.cache import Cache, Dataset, dataset_of, hdf5_pieces, open_hdf5
from bottleneck.errors import CacheError, DataError, UsageError, first_line, reworded
from bottleneck.features import vectors
from bottleneck.files import output_file
from bottleneck.images import ImageSet, read_saved
from bottleneck.inputs import check_regular
from bottleneck.records import ExportRecord, FeatureSource, parse_record

__all__ = ["Exchange", "check_array", "export_features", "read_exported", "slices_of"]

_BLOCK_BYTES = 2**24
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_Cells = Mapping[str, list[str]]
"""Texts of each column of an image set."""
_TEXTS = ("paths", "labels", "splits", "digests")
_OPTIONAL = ("groups",)
"""Texts that a file has only if any image has one."""
_FACTS = ("provenance", "sha256")


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """The result of an export or import.

    Attributes
    ----------
    file : str
        The plain file.
    image_set, model, layer, bank : str
        Names of the image set, model, layer and bank.
    images : int
        Number of rows.
    added : int or None
        Number of distinct rows that were new to the cache; None for an export.
    shape : list of int
        Shape of a row.
    dtype : str
        Data type of the values.
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
    def of(cls, source: FeatureSource, file: Path, shape: Sequence[int], **facts: Any) -> Self:
        """Build the result of a source, given the shape (n, ...) of all rows.

        Parameters
        ----------
        source : FeatureSource
            The source of the features.
        file : Path
            The plain file.
        shape : sequence of int
            Shape of all rows, (n, ...).
        **facts
            The other attributes: ``dtype`` and, for an import, ``added``.

        Returns
        -------
        Exchange
        """
        return cls(
            file=str(file),
            image_set=source.image_set,
            model=source.model,
            layer=source.layer_name,
            bank=source.bank,
            images=shape[0],
            shape=list(shape[1:]),
            **facts,
        )


def export_features(cache: Cache, selection: FeatureSource, file: str | Path) -> Exchange:
    """Write a layer's features of an image set, with paths, labels and splits, to one file.

    The file contains ``features`` (n, ...), and ``paths``, ``labels``, ``splits`` and ``digests``
    as texts (n,), in the order of the image set, and ``groups`` if any image has one;
    ``provenance`` is JSON. It is written in bounded
    memory.

    Parameters
    ----------
    cache : Cache
        The cache of the features.
    selection : FeatureSource
        Layer and pooling; features are exported as stored, or as float32 if pooled here.
    file : str or Path
        File with the ending ``.h5``, ``.hdf5`` or ``.npz``; an existing file is replaced.

    Returns
    -------
    Exchange
        Summary of the file.

    Raises
    ------
    UsageError
        The file has another ending.
    CacheError
        A row is missing or damaged, or the file cannot be written.
    """
    target = Path(file)
    suffix = target.suffix.lower()
    if suffix not in {".h5", ".hdf5", ".npz"}:
        raise UsageError(f"{str(target)!r} has the ending {suffix!r}; expected .h5, .hdf5 or .npz")
    write = _write_npz if suffix == ".npz" else _write_hdf5
    items = ImageSet.read_csv(cache.set_file(selection.image_set)).items
    texts = {
        key: [getattr(item, key.removesuffix("s")) or "" for item in items]
        for key in (*_TEXTS, *_OPTIONAL)
    }
    texts = {key: own for key, own in texts.items() if key in _TEXTS or any(own)}
    bank, *_ = cache.banks_of(selection)
    rows = partial(
        bank.stream,
        selection.layer,
        texts["digests"],
        memory=_BLOCK_BYTES,
        convert=None if selection.pool == selection.stored_pool else partial(vectors, selection),
    )
    first, info = next(rows()), bank.info
    described = replace(info, layers={selection.layer: info.layers[selection.layer]})
    record = ExportRecord(format=2, selection=selection, bank=described)
    provenance = json.dumps(record.as_dict())
    facts = {"provenance": provenance, "sha256": _seal(rows(), texts, provenance)}
    features = Dataset((len(items), *first.shape[1:]), first.dtype, rows())
    try:
        with output_file(target) as stream:
            write(stream, features, texts, facts)
    except CacheError:
        raise
    except OSError as error:
        raise CacheError(
            f"{str(target)!r} cannot be written ({error.strerror}); check free disk space and "
            f"permissions, or name another file"
        ) from error
    return Exchange.of(selection, target, features.shape, dtype=str(features.dtype))


def _write_hdf5(
    file: IO[bytes], features: Dataset, texts: _Cells, facts: Mapping[str, str]
) -> None:
    datasets = {"features": features}
    for key, column in texts.items():
        values = np.array([text.encode() for text in column])
        dtype = h5py.string_dtype("utf-8", max(1, values.itemsize))
        datasets[key] = Dataset(values.shape, dtype, [values])
    file.writelines(hdf5_pieces(datasets, facts))


def _write_npz(file: IO[bytes], features: Dataset, texts: _Cells, facts: Mapping[str, str]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for key, content in {**texts, **facts}.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as entry:
                np.save(entry, np.array(content))
        with archive.open("features.npy", "w", force_zip64=True) as entry:
            descr = np.lib.format.dtype_to_descr(features.dtype)
            header = {"descr": descr, "fortran_order": False, "shape": features.shape}
            np.lib.format.write_array_header_2_0(entry, header)
            for block in features.blocks:
                entry.write(block.data)


def _seal(blocks: Iterable[np.ndarray], texts: _Cells, provenance: str) -> str:
    """Return the SHA-256 over all contents of a file."""
    described = [list(texts.values()), provenance]
    content = hashlib.sha256(json.dumps(described).encode())
    for block in blocks:
        content.update(np.ascontiguousarray(block).data)
    return content.hexdigest()


def read_exported(path: Path) -> tuple[ExportRecord, ImageSet, np.ndarray]:
    """Read a file from `export_features`, and verify its digest.

    Parameters
    ----------
    path : Path
        An exported file.

    Returns
    -------
    record : ExportRecord
        Provenance of the features.
    images : ImageSet
        The n images.
    rows : np.ndarray
        Shape (n, ...), memory-mapped for HDF5.

    Raises
    ------
    DataError
        The file is damaged or is not an export.
    """
    read = _read_npz if path.suffix.lower() == ".npz" else _read_hdf5

    def unreadable(error: Exception) -> DataError:
        return DataError(
            f"{str(path)!r} cannot be read as exported features ({first_line(error)}); give a "
            f"file that 'bottleneck cache export' wrote, or a .npy array with `table`"
        )

    with reworded(unreadable):  # damaged bytes make the readers raise whatever they meet
        check_regular(path)
        rows, texts, provenance, seal = read(path)
        if seal != _seal((rows[block] for block in slices_of(rows)), texts, provenance):
            raise ValueError("its content does not match its digest")
        record = parse_record(json.loads(provenance), ExportRecord)
        columns = [name.removesuffix("s") for name in texts]
        cells = [dict(zip(columns, row, strict=True)) for row in zip(*texts.values(), strict=True)]
        images = ImageSet(record.selection.image_set, read_saved(cells))
        _check_content(record, len(cells), rows)
    return record, images, rows


def _check_content(record: ExportRecord, count: int, rows: np.ndarray) -> None:
    """Raise a `ValueError` if a file has content that no bank can have."""
    selection = record.selection
    if "/" in selection.layer:
        raise ValueError(f"'selection.layer' is {selection.layer!r}, expected one without /")
    if selection.pool != selection.stored_pool:
        raise ValueError(f"it was pooled by {selection.pool} at export: export without `pool`")
    shape = (count, *record.bank.layers[selection.layer].shape)
    if rows.dtype.kind != "f" or rows.shape != shape:
        raise ValueError(f"it has {rows.dtype} of shape {rows.shape}, expected floats of {shape}")


def _read_npz(path: Path) -> tuple[np.ndarray, _Cells, str, str]:
    with zipfile.ZipFile(path) as archive:
        keys = [*_TEXTS, *(key for key in _OPTIONAL if f"{key}.npy" in archive.namelist())]
        for key in (*keys, *_FACTS, "features"):
            with archive.open(f"{key}.npy") as entry:
                check_array(entry, archive.getinfo(f"{key}.npy").file_size)
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        texts = {key: arrays[key].tolist() for key in keys}
        provenance, seal = (str(arrays[key]) for key in _FACTS)
        return arrays["features"], texts, provenance, seal


def _read_hdf5(path: Path) -> tuple[np.ndarray, _Cells, str, str]:
    with open_hdf5(path) as file:
        keys = [*_TEXTS, *(key for key in _OPTIONAL if key in file)]
        texts = {key: [text.decode() for text in dataset_of(file, key)[:].tolist()] for key in keys}
        provenance, seal = (file.attrs[key].decode() for key in _FACTS)
        stored = dataset_of(file, "features")
        shape, dtype, offset = stored.shape, stored.dtype, stored.id.get_offset()
    return np.memmap(path, dtype, "r", offset, shape), texts, provenance, seal


def check_array(file: IO[bytes], size: int) -> None:
    """Check that a ``.npy`` file has as many bytes as its header promises, before it is read.

    Parameters
    ----------
    file : binary file
        At its beginning.
    size : int
        Size of the file in bytes.

    Raises
    ------
    ValueError
        It is another format, too short, or holds objects, which would be pickled.
    """
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"a .npy file of version {version}")
    try:
        shape, _, dtype = _HEADERS[version](file)
    except (SyntaxError, TokenError, RecursionError) as error:  # which NumPy lets pass
        raise ValueError(f"its header is not valid ({type(error).__name__})") from None
    if dtype.hasobject:
        raise ValueError("it holds Python objects, expected numbers")
    if min(shape, default=0) < 0 or prod(shape) * dtype.itemsize > size - file.tell():
        raise ValueError(f"its header claims the shape {shape}, more than the file holds")


def slices_of(rows: np.ndarray) -> Iterator[slice]:
    """Yield slices that cut rows into blocks of a few megabytes.

    Parameters
    ----------
    rows : np.ndarray
        Shape (n, ...).

    Yields
    ------
    slice
        Consecutive rows; at least one.
    """
    step = max(1, _BLOCK_BYTES // max(1, prod(rows.shape[1:]) * rows.dtype.itemsize))
    for start in range(0, len(rows), step):
        yield slice(start, start + step)
