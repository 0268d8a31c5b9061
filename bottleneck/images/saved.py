"""Image sets as the cache saves them, and as tables for people."""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from bottleneck.errors import STORE_AGAIN, DataError
from bottleneck.images.items import ImageItem
from bottleneck.inputs import open_regular
from bottleneck.records import sentence_of
from bottleneck.sources import exists, is_remote, location

__all__ = ["read_saved", "read_saved_file", "text_of_table", "text_to_save"]

_ITEMS = TypeAdapter(tuple[ImageItem, ...])


def read_saved(rows: Iterable[Mapping[str, str]]) -> tuple[ImageItem, ...]:
    """Return the images of a set from texts that `text_to_save` or an export has written.

    Parameters
    ----------
    rows : iterable of mapping
        The attributes of each image, as text.

    Returns
    -------
    tuple of ImageItem

    Raises
    ------
    ValueError
        There are no rows, a digest is missing, or a value is invalid.
    """
    cells = [{column: cell for column, cell in row.items() if cell} for row in rows]
    try:
        items = _ITEMS.validate_python(cells)
    except ValidationError as error:
        raise ValueError(sentence_of(error)) from error
    if not items or not all(item.digest for item in items):
        raise ValueError("it is empty, or a digest is missing")
    return items


def read_saved_file(path: Path) -> tuple[ImageItem, ...]:
    """Return the images of a saved set.

    Parameters
    ----------
    path : Path
        A file with the content of `text_to_save`.

    Returns
    -------
    tuple of ImageItem
        Relative paths lead from the working folder. If the set was saved from another one, and that
        is among the folders that the file is in, the images are found from there.

    Raises
    ------
    DataError
        The file is missing, empty or damaged.
    """
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8", newline="") as stream:
            return _from_here(read_saved(csv.DictReader(stream)), path)
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"the image set {str(path)!r} cannot be read ({error}); {STORE_AGAIN}"
        ) from error


def _from_here(items: tuple[ImageItem, ...], file: Path) -> tuple[ImageItem, ...]:
    """Return images with paths that lead from the working folder, see `read_saved_file`."""
    first = items[0].path
    if exists(first):
        return items
    folder = next((each for each in file.absolute().parents if exists(each / first)), None)
    return items if folder is None else tuple(_led_from(folder, item) for item in items)


def _led_from(folder: Path, item: ImageItem) -> ImageItem:
    """Return an image whose path led from a folder with one that leads from the working folder."""
    if is_remote(item.path) or Path(item.path).is_absolute():
        return item
    return replace(item, path=Path(os.path.relpath(folder / item.path)).as_posix())


def text_to_save(items: Sequence[ImageItem]) -> str:
    """Return images as CSV, see `ImageSet.write_csv`.

    Parameters
    ----------
    items : sequence of ImageItem
        Images with digests.

    Returns
    -------
    str
        A header, and a row for each image.
    """
    return _text(items, ("path", "digest", "label", "split", "weight", "sha256", "group"))


def text_of_table(items: Sequence[ImageItem], folder: Path) -> str:
    """Return images as a table that `read_table` reads.

    Parameters
    ----------
    items : sequence of ImageItem
        Images with labels and splits.
    folder : Path
        The folder of the table. Paths of images in it are relative to it, all others absolute.

    Returns
    -------
    str
        The columns path, label and split; weight and group where there are any.
    """
    root, placed = folder.resolve(), []
    for item in items:
        path = location(item.path).absolute()
        inside = path.is_relative_to(root)
        placed.append(replace(item, path=(path.relative_to(root) if inside else path).as_posix()))
    return _text(placed, ("path", "label", "split", "weight", "group"))


def _text(items: Sequence[ImageItem], columns: Sequence[str]) -> str:
    """Return some columns of images as CSV, optional ones only where any image has a value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    usual = {"weight": 1.0, "sha256": None, "group": None}
    columns = [
        column
        for column in columns
        if column not in usual or any(getattr(item, column) != usual[column] for item in items)
    ]
    writer.writerow(columns)
    writer.writerows([getattr(item, column) for column in columns] for item in items)
    return text.getvalue()
