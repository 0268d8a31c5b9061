"""Import features from plain files into the cache."""

import hashlib
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bottleneck import records
from bottleneck.arguments import made
from bottleneck.cache import Cache, store
from bottleneck.errors import (
    BadImageError,
    DataError,
    FeatureOverflowError,
    PathMissingError,
    UsageError,
    counted,
    first_line,
    reworded,
)
from bottleneck.exchange.formats import Exchange, check_array, read_exported, slices_of
from bottleneck.features import is_known
from bottleneck.files import sha256_of
from bottleneck.images import ImageItem, ImageSet, digests_of_file, read_table
from bottleneck.inputs import open_regular
from bottleneck.settings import ImportSettings

__all__ = ["import_array", "import_features"]


def import_features(cache: Cache, file: str | Path, *, image_set: str | None = None) -> Exchange:
    """Import a file from `export_features`, with its bank, image set and record.

    Parameters
    ----------
    cache : Cache
        Missing rows are added to it.
    file : str or Path
        An exported file.
    image_set : str, optional
        New name for the image set.

    Returns
    -------
    Exchange
        Summary of the import.

    Raises
    ------
    PathMissingError
        The file does not exist.
    DataError
        The file is damaged or was not exported, or its features were pooled at export.
    UsageError
        The cache has a different image set of that name.
    CacheError
        The cache cannot be written, or the bank has features of another library version.
    """
    source = _existing("file", file, "one that 'cache export' wrote")
    record, images, rows = read_exported(source)
    images = replace(images, name=image_set or images.name)
    return _take_in(cache, source, record, images, rows)


def import_array(
    cache: Cache,
    file: str | Path,
    table: str | Path,
    settings: ImportSettings | None = None,
    **options: Any,
) -> Exchange:
    """Import features made elsewhere: a ``.npy`` array, and a CSV table that describes its rows.

    They get their own bank, with a fingerprint over the array and the digests of its rows.

    Parameters
    ----------
    cache : Cache
        The cache to import into.
    file : str or Path
        A floating-point array of shape (n, ...).
    table : str or Path
        A CSV with the columns ``path,label``, optionally ``split`` and ``digest``, and n rows in
        the order of the array. A row belongs to the image with that digest or, without one, to the
        file at ``path``, relative to the table.
    settings : ImportSettings, optional
        Description of the array; its `model` is required.
    **options
        The fields of `bottleneck.settings.ImportSettings`, in place of `settings`.

    Returns
    -------
    Exchange
        Summary of the import.

    Raises
    ------
    PathMissingError
        A file does not exist, or an image where `by_row` is False.
    UsageError
        Array and table have different lengths, a column is missing, a name is invalid, a digest is
        wrong, or the cache has another image set of that name.
    DataError
        The array cannot be read or stored, equal images have different rows, or there is only one
        class.
    CacheError
        The cache cannot be written.
    """
    settings = made(ImportSettings, settings, options)
    model, layer, axes = settings.model, settings.layer, settings.axes
    if model is None:
        raise UsageError(
            f"{str(file)!r} does not record which model computed it; give `model=NAME`"
        )
    source = _existing("file", file, "an array that np.save wrote")
    rows = _load_array(source)
    if axes is not None and rows.ndim != 1 + len(axes):
        raise UsageError(
            f"`axes` {axes!r} does not fit rows of shape {rows.shape[1:]}; expected CHW or HWC for "
            f"maps, TC for tokens"
        )
    images = _tabled(_existing("table", table, "a CSV with path,label"), source, rows, settings)
    dtype = "float16" if rows.dtype == np.float16 else "float32"
    content = sha256_of(source)
    digests = [item.digest for item in images.items]
    identity = json.dumps(["imported", content, digests, model, layer, axes, dtype])
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()
    selection = records.FeatureSource(
        image_set=images.name,
        model=model,
        weights=records.IMPORTED,
        weights_random=False,
        precision="",
        dtype=dtype,
        adjustments={},
        layer=layer,
        alias=None,
        bank=cache.bank(model, fingerprint).name,
        fingerprint=fingerprint,
        stored_pool="none",
        axes=axes or ("C" if rows.ndim == 2 else ""),  # noqa: PLR2004 - rows and channels
        pool="none",
    )
    array: records.banks.ImportedArray = {"file": source.name, "sha256": content}
    shapes = {layer: rows.shape[1:]}
    info = records.BankRecord.imported(fingerprint, model, shapes, dtype=dtype, source=array)
    record = records.ExportRecord(format=2, selection=selection, bank=info)
    return _take_in(cache, source, record, images, rows)


def _take_in(
    cache: Cache, source: Path, record: records.ExportRecord, images: ImageSet, rows: np.ndarray
) -> Exchange:
    """Add rows, in the order of the images, to their bank; write the image set and the record."""
    is_known(images, cache)  # or another one of its name is refused
    bank = cache.bank(record.selection.model, record.selection.fingerprint)
    selection = replace(record.selection.with_views(0), image_set=images.name, bank=bank.name)
    layer, digests = selection.layer, np.array([item.digest for item in images.items])
    _, first, place = np.unique(digests, return_index=True, return_inverse=True)
    _check_rows(source, selection, rows, first[place])
    cache.check_writable()
    if bank.describes(layer):
        bank.check_canary(layer, record.bank.layers[layer].canary)
    else:
        bank.describe(record.bank)
    new = np.zeros(len(rows), bool)
    new[first] = ~bank.holds(layer, digests[first].tolist())
    with bank.writer(selection.dtype) as writer:
        for block in slices_of(rows):
            if new[block].any():
                added = digests[block][new[block]].tolist()
                writer.append(added, {layer: rows[block][new[block]]})
    bank.rebuild_view_file()
    images.write_csv(cache.set_file(images.name))
    extracted = records.ExtractedLayer(
        **records.facts_of(selection, records.LayerFacts),
        aliases=record.bank.layers[layer].names,
        pool=selection.stored_pool,
        shape=list(rows.shape[1:]),
    )
    run = records.Extraction(
        **records.facts_of(selection, records.RunFacts),
        time=datetime.now(UTC).isoformat(),
        image_set_digest=images.digest_of(),
        layers=[extracted],
        images=len(rows),
        computed=int(new.sum()),
        cached=len(first) - int(new.sum()),
        copies=len(rows) - len(first),
        imported_from=source.name,
    )
    cache.record_run(run)
    return Exchange.of(selection, source, rows.shape, dtype=selection.dtype, added=run.computed)


def _check_rows(
    source: Path, selection: records.FeatureSource, rows: np.ndarray, first: np.ndarray
) -> None:
    """Raise `DataError` if a row cannot be stored, or differs from another row of its image.

    Parameters
    ----------
    first : np.ndarray
        For each row, the number of the first row that belongs to the same image.
    """
    for block in slices_of(rows):
        try:
            store(rows[block], selection.dtype, selection.layer)
        except FeatureOverflowError as error:
            raise DataError(
                f"rows {block.start} to {min(block.stop, len(rows)) - 1} of {str(source)!r} "
                f"contain nan, inf or values too large for {selection.dtype}; expected finite "
                f"numbers"
            ) from error
    for number in np.flatnonzero(first < np.arange(len(rows))):
        if not np.array_equal(*rows[[first[number], number]].astype(selection.dtype)):
            raise DataError(
                f"rows {first[number]} and {number} of {str(source)!r} belong to the same image "
                f"but differ; correct the table, so that each row has its own image"
            )


def _existing(what: str, file: str | Path, expected: str) -> Path:
    path = Path(file)
    if not path.is_file():
        raise PathMissingError(f"no {what} {str(path)!r}; give {expected}")
    return path


def _load_array(path: Path) -> np.ndarray:
    unreadable, remedy = f"{str(path)!r} cannot be read as an array", "give one that np.save wrote"
    with reworded(lambda error: DataError(f"{unreadable} ({first_line(error)}); {remedy}")):
        with open_regular(path) as file:
            check_array(file, path.stat().st_size)
        rows = np.lib.format.open_memmap(path, mode="r")
    if rows.ndim < 2 or not rows.size or rows.dtype.kind != "f":  # noqa: PLR2004 - of features
        raise DataError(
            f"{str(path)!r} is not an array of features; expected floating-point numbers of "
            f"shape (n, ...)"
        )
    return rows


def _tabled(table: Path, source: Path, rows: np.ndarray, settings: ImportSettings) -> ImageSet:
    """Return the image set of a table that describes the rows of an array."""
    described = read_table(table).items
    if len(described) != len(rows):
        raise UsageError(
            f"{str(table)!r} has {counted(len(described), 'row')}, but {str(source)!r} has "
            f"{len(rows)}; expected one row of the table for each row of the array"
        )
    if settings.by_row:
        digests = [hashlib.sha256(np.ascontiguousarray(row).data).hexdigest() for row in rows]
        items = [replace(item, digest=own) for item, own in zip(described, digests, strict=True)]
    else:
        items = [_digested(table, item) for item in described]
    images = ImageSet(settings.image_set or table.resolve().stem, tuple(items))
    return images.completed(table, settings.seed)


def _digested(table: Path, item: ImageItem) -> ImageItem:
    """Add an image's digest, given or computed from its file; if both exist, they must agree."""
    given = item.digest
    try:
        found, plain = digests_of_file(Path(item.path))
    except BadImageError as error:
        if not given:
            raise PathMissingError(
                f"{item.path!r} in {str(table)!r} cannot be read ({error}); correct the "
                f"path, add a column digest, or import rows without images with `by_row`"
            ) from error
        found = plain = given if re.fullmatch("[0-9a-f]{64}", given) else ""
    if given and given not in {found, plain}:
        raise UsageError(
            f"{str(table)!r} gives the digest {given!r} for {item.path!r}, expected the SHA-256 "
            f"of that image, 64 hexadecimal digits; correct it, or leave it empty to compute it "
            f"from the file"
        )
    return replace(item, digest=found, sha256=None if plain == found else plain)
