"""Correct the labels of an image set by a table that a person has reviewed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bottleneck.errors import DataError, PathMissingError, UsageError, did_you_mean
from bottleneck.files import output_file
from bottleneck.images.items import ImageItem
from bottleneck.images.saved import text_of_table
from bottleneck.images.sets import ImageSet
from bottleneck.images.tables import Row, read_rows
from bottleneck.labels import classes_of
from bottleneck.names import normal_name

__all__ = ["correct_labels"]

_COLUMNS = ("path", "label", "suggested", "score")
_NEEDED = ("path", "suggested")


@dataclass(frozen=True)
class Corrected:
    """What a reviewed table has changed.

    Attributes
    ----------
    file : Path
        The corrected table.
    images : int
        Images in it.
    changed : int
        Images that have another label than before.
    """

    file: Path
    images: int
    changed: int


def correct_labels(images: ImageSet, reviewed: str | Path, file: str | Path) -> Corrected:
    """Write a table of an image set with the labels that a reviewed table suggests.

    Paths, splits, sample weights and groups stay. Each row of the reviewed table is applied: delete
    those whose label is right, and edit `suggested` where another label is.

    Parameters
    ----------
    images : ImageSet
        The image set, with labels.
    reviewed : str or Path
        A CSV file with the columns path and suggested, and, if it has them, label and score.
    file : str or Path
        The table to write, for `ImageSet.open` and ``bottleneck extract --data``.

    Returns
    -------
    Corrected

    Raises
    ------
    PathMissingError
        There is no reviewed table.
    UsageError
        It has other columns, an image that is not in the set, a label that the image does not have,
        no suggestion or two, or a class that the set does not have.
    DataError
        It has no rows.
    OSError
        The table cannot be written.
    """
    table, target = Path(reviewed), Path(file)
    if not table.is_file():
        raise PathMissingError(
            f"no reviewed table {str(table)!r}; write one with 'bottleneck suspects', and delete "
            f"the rows whose label is right"
        )
    columns, rows = read_rows(table, ",".join(_COLUMNS))
    lacking = [f"no column {each}" for each in _NEEDED if each not in columns]
    lacking += [f"an unknown column {each!r}" for each in columns if each not in _COLUMNS]
    if lacking:
        raise UsageError(
            f"reviewed table {str(table)!r} has {lacking[0]}; expected the header "
            f"{','.join(_COLUMNS)}, as 'bottleneck suspects' writes it"
        )
    if not rows:
        raise DataError(f"reviewed table {str(table)!r} has no rows; there is nothing to correct")
    labels = _labels(table, rows, images)
    items = [replace(each, label=labels.get(each.path, each.label)) for each in images.items]
    with output_file(target) as stream:
        stream.write(text_of_table(items, target.parent).encode())
    changed = sum(new.label != old.label for new, old in zip(items, images.items, strict=True))
    return Corrected(target, len(items), changed)


def _labels(table: Path, rows: Sequence[Row], images: ImageSet) -> dict[str, str]:
    """Return the label of each path that a reviewed table names."""
    known = {each.path.strip(): each for each in images.items}
    labels: dict[str, str] = {}
    for row in rows:
        item = _item(table, row, known, images)
        label = _label(table, row, images)
        if labels.setdefault(item.path, label) != label:
            raise UsageError(
                f"reviewed table {str(table)!r} suggests {labels[item.path]!r} and, in line "
                f"{row.line}, {label!r} for {item.path!r}; keep one of these rows"
            )
    return labels


def _item(table: Path, row: Row, known: dict[str, ImageItem], images: ImageSet) -> ImageItem:
    """Return the image of a row, whose label must still be what it was."""
    path, label = _plain(row.cells["path"], known), row.cells.get("label", "")
    if path not in known:
        raise UsageError(
            f"reviewed table {str(table)!r} names {path!r} in line {row.line}, which is not in "
            f"image set {images.name!r}{did_you_mean(path, known)}; correct the path, or name the "
            f"set with `image_set`"
        )
    item = known[path]
    own = item.label or ""
    if label and normal_name(_plain(label, (own,))) != own:
        raise UsageError(
            f"reviewed table {str(table)!r} is not of this set: in line {row.line}, {path!r} has "
            f"the label {label!r}, but it is {own!r} in {images.name!r}; run 'bottleneck suspects' "
            f"again"
        )
    return item


def _label(table: Path, row: Row, images: ImageSet) -> str:
    """Return the suggested label of a row, whose classes the set must have."""
    given = row.cells["suggested"]
    label = normal_name(_plain(given, images.classes))
    if not label:
        raise UsageError(
            f"reviewed table {str(table)!r} suggests no label in line {row.line}; give one, or "
            f"delete the row (to leave the image out, delete it from the corrected table)"
        )
    named = classes_of(label) if images.multilabel else (label,)
    for name in (each for each in named if each not in images.classes):
        raise UsageError(
            f"reviewed table {str(table)!r} suggests the class {name!r} in line {row.line}, which "
            f"image set {images.name!r} does not have{did_you_mean(name, images.classes)}; give "
            f"one of its classes, or add the class in the corrected table"
        )
    return label


def _plain(cell: str, known: Sequence[str] | dict[str, ImageItem]) -> str:
    """Return a cell without the apostrophe that keeps spreadsheets from taking it for a formula."""
    return cell[1:] if cell.startswith("'") and cell[1:] in known and cell not in known else cell
