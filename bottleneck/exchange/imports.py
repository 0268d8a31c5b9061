"""Features from plain files into the cache."""

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_64_intdigest

from bottleneck.cache import Bank, Cache, store
from bottleneck.errors import DataError, FeatureOverflowError, PathMissingError, UsageError
from bottleneck.exchange.formats import Exchange, blocks_of, errors_of, read_exported
from bottleneck.fields import made
from bottleneck.images import ImageSet, read_manifest
from bottleneck.records import (
    IMPORTED,
    BankRecord,
    ExtractedLayer,
    Extraction,
    FeatureSource,
    LayerFacts,
    RunFacts,
    facts_of,
)
from bottleneck.settings import ImportSettings

__all__ = ["import_array", "import_features"]

_AXES = {"CHW": 4, "HWC": 4, "TC": 3}
"""What the axes of a row can be, and how many an array of such rows has."""


def import_features(cache: Cache, file: str | Path, *, image_set: str | None = None) -> Exchange:
    """Take in what `export_features` wrote: the very bank, image set and record of the extraction.

    Parameters
    ----------
    cache : Cache
        Rows that it lacks are added.
    file : str or Path
        As exported.
    image_set : str, optional
        Another name for the image set.

    Raises
    ------
    PathMissingError
        There is no such file.
    DataError
        The file is damaged or was not exported, or its features were pooled at export.
    UsageError
        The cache has another image set of that name.
    CacheError
        The cache cannot be written, or the bank holds what another library version computed.
    """
    source = Path(file)
    if not source.is_file():
        raise PathMissingError(f"no file {str(source)!r}; give one that 'cache export' wrote")
    with errors_of(source):
        exported = read_exported(source)
        selection, info = exported.record.selection, exported.record.bank
        images = exported.images(image_set or selection.image_set)
        details = info.layers[selection.layer]
        if "/" in selection.layer:
            raise ValueError(f"'selection.layer' is {selection.layer!r}, expected one without /")
    if selection.pool != selection.stored_pool:
        raise DataError(
            f"{str(source)!r} was pooled by {selection.pool} at export, so that it is not what a "
            f"bank holds; export it without `pool`, or save its features by np.save and import "
            f"them with `table`"
        )
    if exported.shape != (len(images.items), *details.shape):
        raise DataError(
            f"{str(source)!r} has features of shape {exported.shape} for {len(images.items)} "
            f"images and a layer of shape {tuple(details.shape)}; give one that 'cache export' "
            f"wrote"
        )
    selection = replace(selection, image_set=images.name)
    return _take_in(cache, source, selection, images, info, exported.blocks)


def import_array(
    cache: Cache,
    file: str | Path,
    table: str | Path,
    settings: ImportSettings | None = None,
    **options: Any,
) -> Exchange:
    """Take in features made elsewhere: a ``.npy`` array, and a CSV that says what its rows are.

    They have a bank of their own, whose fingerprint is over the array and the digests of its rows.

    Parameters
    ----------
    cache : Cache
        Where they go.
    file : str or Path
        An array of shape (n, ...), floating.
    table : str or Path
        A CSV with the columns ``path,label``, perhaps ``split``, and n rows in the array's order. A
        row belongs to the image with the ``digest`` in that column, or, where it is empty, to the
        file at `path`, relative to the table.
    settings : ImportSettings, optional
        What the array is; its `model` is needed.
    **options
        The fields of `bottleneck.settings.ImportSettings`, instead.

    Raises
    ------
    PathMissingError
        A file does not exist, or an image where `by_row` is False.
    UsageError
        Array and table have different lengths, a column is missing, a name cannot be, or the cache
        has another image set of that name.
    DataError
        The array cannot be read, or not be stored; equal images have unequal rows; there is one
        class only.
    CacheError
        The cache cannot be written.
    """
    settings, source = made(ImportSettings, settings, options), Path(file)
    model, layer, axes = settings.model, settings.layer, settings.axes
    if model is None:
        raise UsageError(f"{str(file)!r} does not say what computed it; give `model=NAME`")
    rows = _load_array(source)
    if axes is not None and _AXES.get(axes) != rows.ndim:
        raise UsageError(
            f"`axes` {axes!r} does not fit rows of shape {rows.shape[1:]}; expected CHW or HWC for "
            f"maps, TC for tokens"
        )
    images = _tabled(Path(table), source, rows, settings)
    dtype = "float16" if rows.dtype == np.float16 else "float32"
    with source.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    digests = [item.digest for item in images.items]
    identity = json.dumps(["imported", content, digests, model, layer, axes, dtype])
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()
    selection = FeatureSource(
        image_set=images.name,
        model=model,
        weights=IMPORTED,
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
    info = BankRecord.imported(
        fingerprint,
        model,
        {layer: rows.shape[1:]},
        dtype=dtype,
        source={"file": source.name, "sha256": content},
    )
    return _take_in(cache, source, selection, images, info, lambda: blocks_of(rows))


def _take_in(  # noqa: PLR0917 - two callers, next to it
    cache: Cache,
    source: Path,
    selection: FeatureSource,
    images: ImageSet,
    info: BankRecord,
    blocks: Callable[[], Iterator[np.ndarray]],
) -> Exchange:
    """Add rows, in the order of the images, to their bank; write image set and record."""
    set_file = cache.set_file(images.name)
    if set_file.exists() and ImageSet.read_csv(set_file).digest_of() != images.digest_of():
        raise UsageError(
            f"the cache has an image set {images.name!r} with other images, labels or splits; give "
            f"this one another name with `image_set`"
        )
    _check_rows(source, selection, images, blocks())
    cache.check_writable()
    bank = cache.bank(selection.model, selection.fingerprint)
    selection = replace(selection, bank=bank.name)
    details = info.layers[selection.layer]
    if bank.describes(selection.layer):
        bank.check_canary(selection.layer, details.canary)
    else:
        bank.describe(info)
    added = _append(bank, selection, images, blocks())
    bank.rebuild_view_file()
    images.write_csv(set_file)
    cache.record_run(_record(selection, images, details.shape, source, added))
    return Exchange.of(
        selection,
        source,
        images=len(images.items),
        shape=details.shape,
        dtype=selection.dtype,
        added=added,
    )


def _check_rows(
    source: Path, selection: FeatureSource, images: ImageSet, blocks: Iterator[np.ndarray]
) -> None:
    """Raise `DataError` where a row cannot be stored, or equal images have unequal rows."""
    first: dict[str, tuple[int, int]] = {}
    number = 0
    for block in blocks:
        try:
            stored = store(block, selection.dtype, selection.layer)
        except FeatureOverflowError as error:
            raise DataError(
                f"{str(source)!r} holds nan, inf or more than float32 can hold, among its rows "
                f"{number} to {number + len(block) - 1}; expected finite numbers"
            ) from error
        for row in stored:
            value = xxh3_64_intdigest(np.ascontiguousarray(row).data)
            earlier, known = first.setdefault(images.items[number].digest, (number, value))
            if known != value:
                raise DataError(
                    f"rows {earlier} and {number} of {str(source)!r} belong to the same image and "
                    f"differ; correct the table, so that each row has its own image"
                )
            number += 1


def _append(
    bank: Bank, selection: FeatureSource, images: ImageSet, blocks: Iterator[np.ndarray]
) -> int:
    """Add the rows that the bank lacks, once each; return how many."""
    seen = {digest for digest, view in bank.known(selection.layer) if view == 0}
    before, done = len(seen), 0
    with bank.writer(selection.dtype) as writer:
        for block in blocks:
            new: dict[str, int] = {}
            for row, item in enumerate(images.items[done : done + len(block)]):
                if item.digest not in seen:
                    new.setdefault(item.digest, row)
            if new:
                writer.append(list(new), {selection.layer: block[list(new.values())]})
            seen |= new.keys()
            done += len(block)
    return len(seen) - before


def _record(
    selection: FeatureSource, images: ImageSet, shape: list[int], source: Path, added: int
) -> Extraction:
    """Return what a run's record says, as far as an import knows it."""
    plain = selection.with_views(0)
    layer = ExtractedLayer(
        **facts_of(plain, LayerFacts),
        aliases=[plain.alias] if plain.alias else [],
        pool=plain.stored_pool,
        shape=shape,
    )
    return Extraction(
        **facts_of(plain, RunFacts),
        time=datetime.now(UTC).isoformat(),
        image_set_digest=images.digest_of(),
        layers=[layer],
        images=len(images.items),
        computed=added,
        imported_from=source.name,
    )


def _load_array(path: Path) -> np.ndarray:
    if not path.is_file():
        raise PathMissingError(f"no file {str(path)!r}; give an array that np.save wrote")
    try:
        rows: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{str(path)!r} cannot be read as an array ({error}); give one that np.save wrote"
        ) from error
    whole = isinstance(rows, np.ndarray) and rows.ndim > 1 and rows.size > 0
    if not whole or rows.dtype.kind != "f":
        raise DataError(
            f"{str(path)!r} is no array of features; expected floating numbers of shape (n, ...)"
        )
    return rows


def _tabled(table: Path, source: Path, rows: np.ndarray, settings: ImportSettings) -> ImageSet:
    """Return the image set of a table, whose rows go with those of an array."""
    if not table.is_file():
        raise PathMissingError(f"no table {str(table)!r}; give a CSV with path,label")
    files = list(read_manifest(table))
    if len(files) != len(rows):
        raise UsageError(
            f"{str(table)!r} has {len(files)} rows and {str(source)!r} has {len(rows)}; expected "
            f"one row of the table for each of the array"
        )
    if settings.by_row:
        digests = [hashlib.sha256(np.ascontiguousarray(row).data).hexdigest() for row in rows]
    else:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            given = [(row.get("digest") or "").lower() for row in csv.DictReader(stream)]
        paths = [Path(found.path) for found in files]
        digests = [_digest(table, *each) for each in zip(paths, given, strict=True)]
    name = settings.image_set or table.resolve().stem
    return ImageSet.from_digests(table, digests, name=name, seed=settings.seed)


def _digest(table: Path, path: Path, given: str) -> str:
    """Return an image's digest: as given, or that of the file; where there are both, they agree."""
    if given and not re.fullmatch("[0-9a-f]{64}", given):
        raise UsageError(
            f"{str(table)!r} has the digest {given!r}; expected the SHA-256 of the image file, 64 "
            f"hexadecimal digits"
        )
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        if given:
            return given
        raise PathMissingError(
            f"{str(path)!r} in {str(table)!r} cannot be read ({error.strerror}); put the images "
            f"there, add a column digest, or key the rows by themselves with `by_row`"
        ) from error
    if given and given != found:
        raise UsageError(
            f"{str(path)!r} is not the image with the digest {given!r} that {str(table)!r} gives "
            f"it; correct the digest, or leave it empty to take that of the file"
        )
    return found
