"""Features from plain files into the cache."""

import csv
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bottleneck.cache import Cache
from bottleneck.errors import DataError, PathMissingError, UsageError
from bottleneck.exchange.formats import Exchange, blocks_of, errors_of, read_exported
from bottleneck.features import Selection
from bottleneck.images import ImageSet, read_manifest

__all__ = ["import_array", "import_features"]

_WEIGHTS = "imported"


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
    CacheError
        The cache cannot be written.
    """
    source = Path(file)
    if not source.is_file():
        raise PathMissingError(f"no file {str(source)!r}; give one that 'cache export' wrote")
    with errors_of(source):
        exported = read_exported(source)
        selection = Selection(**exported.provenance["selection"])
        images = exported.images(image_set or selection.image_set)
        info = exported.provenance["bank"]
        details = info.pop("layers")[selection.layer]
    if selection.pool != selection.stored_pool:
        raise DataError(
            f"{str(source)!r} was pooled by {selection.pool} at export, so that it is not what a "
            f"bank holds; export it without --pool"
        )
    selection = replace(selection, image_set=images.name)
    return _take_in(
        cache, source, selection, images, info=info, details=details, blocks=exported.blocks()
    )


def import_array(
    cache: Cache,
    file: str | Path,
    table: str | Path,
    *,
    model: str,
    layer: str = "features",
    image_set: str | None = None,
    by_row: bool = False,
    seed: int = 0,
) -> Exchange:
    """Take in features made elsewhere: a ``.npy`` array, and a CSV that says what its rows are.

    They have a bank of their own, whose fingerprint is over the file's bytes.

    Parameters
    ----------
    cache : Cache
        Where they go.
    file : str or Path
        An array of shape (n, ...), floating.
    table : str or Path
        A CSV with the columns ``path,label``, perhaps ``split``, and n rows in the array's order. A
        row belongs to the image with the ``digest`` in that column, or else to the file at `path`,
        relative to the table.
    model, layer : str
        Names for what computed them.
    image_set : str, optional
        Its name; the table's by default.
    by_row : bool
        Let a row stand for itself where there is no image: its digest is over its values.
    seed : int
        Seed of the split, where the table has none.

    Raises
    ------
    PathMissingError
        A file does not exist, or an image where `by_row` is False.
    UsageError
        Array and table have different lengths, or a column is missing.
    DataError
        The array cannot be read, or has one class only.
    FeatureOverflowError
        A value is not finite.
    CacheError
        The cache cannot be written.
    """
    source, rows = Path(file), _load_array(Path(file))
    if not Path(table).is_file():
        raise PathMissingError(f"no table {str(table)!r}; give a CSV with path,label")
    digests = _row_digests(rows) if by_row else _image_digests(Path(table))
    found = len(list(read_manifest(Path(table))))
    if found != len(rows):
        raise UsageError(
            f"{str(table)!r} has {found} rows and {str(source)!r} has {len(rows)}; expected one "
            f"row of the table for each of the array"
        )
    images = ImageSet.from_digests(
        table, digests, name=image_set or Path(table).resolve().stem, seed=seed
    )
    dtype = "float16" if rows.dtype == np.float16 else "float32"
    with source.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    identity = json.dumps(["imported", content, model, layer, dtype])
    selection = Selection(
        image_set=images.name,
        model=model,
        weights=_WEIGHTS,
        weights_random=False,
        dtype=dtype,
        adjustments={},
        layer=layer,
        alias=None,
        bank="",
        fingerprint=hashlib.sha256(identity.encode()).hexdigest(),
        stored_pool="none",
        axes="C" if rows.ndim == 2 else "",  # noqa: PLR2004 - rows and channels
        pool="none",
    )
    info = {
        "fingerprint": selection.fingerprint,
        "model": model,
        "weights_name": _WEIGHTS,
        "weights_random": False,
        "source": {"file": source.name, "sha256": content},
        "transform": {"crop": None},
        "pool": "none",
        "precision": {"storage": dtype},
    }
    details = {"alias": None, "shape": list(rows.shape[1:]), "canary": []}
    return _take_in(
        cache, source, selection, images, info=info, details=details, blocks=blocks_of(rows)
    )


def _take_in(
    cache: Cache,
    source: Path,
    selection: Selection,
    images: ImageSet,
    *,
    info: Mapping[str, Any],
    details: Mapping[str, Any],
    blocks: Iterator[np.ndarray],
) -> Exchange:
    """Add rows, in the order of the images, to their bank; write image set and record."""
    set_file = cache.set_file(images.name)
    cache.check_writable()
    bank = cache.bank(selection.model, selection.fingerprint)
    selection = replace(selection, bank=bank.name)
    if not bank.describes(selection.layer):
        bank.describe_layer(info, selection.layer, details)
    seen = {digest for digest, view in bank.known(selection.layer) if view == 0}
    before, done = len(seen), 0
    with bank.writer(selection.dtype) as writer:
        for block in blocks:
            rows, digests = [], []
            for row, item in enumerate(images.items[done : done + len(block)]):
                if item.digest not in seen:
                    seen.add(item.digest)
                    rows.append(row)
                    digests.append(item.digest)
            if rows:
                writer.append(digests, {selection.layer: block[rows]})
            done += len(block)
    bank.rebuild_view_file()
    images.write_csv(set_file)
    layer = {
        "layer": selection.layer,
        "alias": selection.alias,
        "aliases": [selection.alias] if selection.alias else [],
        "bank": bank.name,
        "fingerprint": selection.fingerprint,
        "pool": selection.stored_pool,
        "axes": selection.axes,
        "shape": details["shape"],
    }
    shared = ("image_set", "model", "weights", "weights_random", "dtype", "adjustments")
    record = {key: getattr(selection, key) for key in shared}
    cache.record_run(
        {
            **record,
            "image_set_digest": images.digest_of(),
            "imported_from": source.name,
            "layers": [layer],
        }
    )
    return Exchange(
        file=str(source),
        image_set=images.name,
        model=selection.model,
        layer=selection.layer_name,
        bank=bank.name,
        images=len(images.items),
        added=len(seen) - before,
        shape=list(details["shape"]),
        dtype=selection.dtype,
    )


def _load_array(path: Path) -> np.ndarray:
    if not path.is_file():
        raise PathMissingError(f"no file {str(path)!r}; give an array that np.save wrote")
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{str(path)!r} cannot be read as an array ({error}); give one that np.save wrote"
        ) from error
    if not isinstance(rows, np.ndarray) or rows.dtype.kind != "f" or rows.ndim < 2 or not rows.size:  # noqa: PLR2004 - rows of at least one axis
        raise DataError(
            f"{str(path)!r} is no array of features; expected floating numbers of shape (n, ...)"
        )
    return rows


def _row_digests(rows: np.ndarray) -> list[str]:
    return [hashlib.sha256(np.ascontiguousarray(row).data).hexdigest() for row in rows]


def _image_digests(table: Path) -> list[str]:
    """Return the digest of each row's image: the column ``digest``, or that of the file."""
    files = list(read_manifest(table))
    with table.open(newline="", encoding="utf-8-sig") as stream:
        given = [row.get("digest") or "" for row in csv.DictReader(stream)]
    if all(given):
        for digest in given:
            if not re.fullmatch("[0-9a-f]{64}", digest):
                raise UsageError(
                    f"{str(table)!r} has the digest {digest!r}; expected the SHA-256 of the image "
                    f"file, 64 hexadecimal digits"
                )
        return given
    digests = []
    for found in files:
        try:
            with found.path.open("rb") as stream:
                digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
        except OSError as error:
            raise PathMissingError(
                f"{str(found.path)!r} in {str(table)!r} cannot be read ({error.strerror}); put the "
                f"images there, add a column digest, or key the rows by themselves with --by-row"
            ) from error
    return digests
