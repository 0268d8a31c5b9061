"""Tables of images: rows of paths, labels, splits and sample weights, as people write them."""

import codecs
import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from bottleneck.errors import BadImageError, DataError, PathMissingError, UsageError, counted
from bottleneck.images.groups import grouped
from bottleneck.images.items import Found, ImageItem
from bottleneck.images.splits import split_of
from bottleneck.images.walking import existing
from bottleneck.names import normal_name
from bottleneck.records import sentence_of
from bottleneck.sources import LABELS, PATHS, exists, is_remote, location, read_source

__all__ = [
    "read_rows",
    "read_table",
    "usual_names",
]

_ITEM = TypeAdapter(ImageItem)
_NEEDED = ("path", "label")
_HELD_OUT = {"is_valid": "val", "is_val": "val", "is_validation": "val", "is_test": "test"}
_TRUTHS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0", ""), False),
}
_KNOWN = {*_NEEDED, "split", "weight", "group", "digest", *_HELD_OUT}
_ALSO = {"path": PATHS, "label": LABELS}
_USUAL = "file_name"
"""What image folders of Hugging Face call the path, so that nothing is told of it."""
_WORDS = {*_KNOWN, *PATHS, *LABELS}
_LIKE_GROUPS = {"patient", "subject", "camera", "burst", "document"}
_MOST_SPLIT_WORDS = 12
_SEPARATORS = ",;\t"
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # which begins as that of UTF-16 does
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_HEADER = "path,label or path,label,split"


class Row(NamedTuple):
    """A row of a table: the number of its last line, and its cells by column."""

    line: int
    cells: dict[str, str]


def read_table(
    file: Path, *, labels: bool = True, found: bool = False, group_by: str | None = None
) -> Found:
    """Read a table of images.

    Cells are separated by commas, semicolons or tabs, and may have blanks around them; rows without
    content are skipped. The case of headers has no effect. The text is UTF-8, or begins with a byte
    order mark of UTF-16 or UTF-32.

    Parameters
    ----------
    file : Path
        The file.
    labels : bool
        Whether a column of labels is needed; without, labels and splits are optional.
    found : bool
        Whether there must be images at some of the paths.
    group_by : str, optional
        The column with the groups, if it is not ``group``; or a regular expression, see `grouped`.

    Returns
    -------
    Found
        An image for each row.

    Raises
    ------
    UsageError
        A column is missing, or a cell is empty, not a split or not a weight; or see `grouped`.
    PathMissingError
        The file does not exist; or `found`, and no image does.
    DataError
        The table has no rows.
    """
    if not exists(file) or file.is_dir():
        raise PathMissingError(f"no table {str(file)!r}; give a CSV with path,label")
    columns, rows, notes = usual_names(*read_rows(file))
    lacking = [column for column in _NEEDED[: 2 if labels else 1] if column not in columns]
    if lacking:
        raise UsageError(
            f"table {str(file)!r} has no column {' and no column '.join(lacking)}; "
            f"expected the header {_HEADER}, found {','.join(columns) or 'an empty file'}"
        )
    if not rows:
        raise DataError(f"table {str(file)!r} lists no images; add rows of path,label")
    split_in = _split_column(file, columns, rows)
    by_column = group_by is not None and group_by.lower() in columns
    group_in = group_by.lower() if group_by and by_column else "group"
    items, known = [], dict[Path, dict[str, str]]()
    for row in rows:
        path = _on_disk(file, row.cells["path"], known) if row.cells["path"] else ""
        cells = {"path": path, "weight": row.cells.get("weight") or 1.0}
        if row.cells.get(group_in):
            cells["group"] = normal_name(row.cells[group_in])
        if labels or row.cells.get("label"):
            cells["label"] = normal_name(row.cells["label"])
        if split_in and labels:
            cells["split"] = _split(split_in, row.cells[split_in])
        item = _checked(file, row.line, cells)
        items.append(replace(item, digest=row.cells.get("digest", "").lower()))
    if found:
        _check_found(file, items)
    notes += _notes_on(columns, rows, split_in, group_in)
    return grouped(Found(items, notes=notes), None if by_column else group_by, file.parent)


def read_rows(file: Path, header: str = _HEADER) -> tuple[list[str], list[Row]]:
    """Return the columns and the rows that are not empty, all without blanks around cells.

    Parameters
    ----------
    file : Path
        The file, in any form that `read_table` takes.
    header : str
        The header that is expected, for errors.

    Returns
    -------
    columns : list of str
        In lower case.
    rows : list of Row

    Raises
    ------
    UsageError
        The file is no table, or has a column twice or more cells in a row than columns.
    """
    try:
        text, start = _decoded(read_source(file)), 0
        if file.suffix.lower() == ".jsonl":
            return _json_rows(file, text)
        if text[:4].lower() == "sep=":  # Excel's own first line
            start = len(text) - len(text.partition("\n")[2])
        separator = _separator(text[start:])
        reader = csv.reader(
            io.StringIO(text[start:], newline=""), delimiter=separator, skipinitialspace=True
        )
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except (OSError, BadImageError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{str(file)!r} cannot be read as a table ({error}); expected a folder, or a "
            f"CSV file in UTF-8 or UTF-16 with the header {header}"
        ) from error
    full = [(line, cells) for line, cells in lines if any(cells)]
    columns = [normal_name(cell).lower() for cell in full[0][1]] if full else []
    while columns and not columns[-1]:
        columns.pop()
    if twice := sorted({each for each in columns if each in _WORDS and columns.count(each) > 1}):
        raise UsageError(f"table {str(file)!r} has several columns {twice[0]}; keep one")
    rows = []
    for line, cells in full[1:]:
        if any(cells[len(columns) :]):
            raise UsageError(
                f"table {str(file)!r} is invalid in line {line}: it has more cells than "
                f"the header, the last being {cells[-1]!r}; put cells with {separator!r} in quotes"
            )
        padded = [*cells, *[""] * len(columns)]
        rows.append(Row(line, dict(zip(columns, padded, strict=False))))
    return columns, rows


def usual_names(
    columns: Sequence[str], rows: Sequence[Row]
) -> tuple[list[str], list[Row], list[str]]:
    """Return a table with `path` and `label` for columns that other programs name otherwise.

    Parameters
    ----------
    columns, rows : sequence of str, sequence of Row
        As `read_rows` returns them.

    Returns
    -------
    columns, rows : list of str, list of Row
        As given but for the names.
    notes : list of str
        Which column was read as which.
    """
    found = {
        next((each for each in also if each in columns), ""): name
        for name, also in _ALSO.items()
        if name not in columns
    }
    found.pop("", None)
    named = {each: found.get(each, each) for each in columns}
    renamed = [
        Row(row.line, {named[each]: cell for each, cell in row.cells.items()}) for row in rows
    ]
    told = [each for each in found if each != _USUAL]
    notes = [f"the column {each} was read as {found[each]}" for each in told]
    return list(named.values()), renamed, notes


def _json_rows(file: Path, text: str) -> tuple[list[str], list[Row]]:
    """Return the columns and rows of JSON lines; lists of labels are joined, null is empty."""
    rows, columns = [], dict[str, None]()
    for line, content in enumerate(text.splitlines(), 1):
        if not content.strip():
            continue
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise UsageError(
                f"table {str(file)!r} is invalid in line {line}: it is no JSON object; expected "
                f'one a line, such as {{"file_name": "1.png", "label": "cat"}}'
            )
        names = [normal_name(name).lower() for name in found]
        cells = [
            "" if value is None else ";".join(map(str, value)) if isinstance(value, list) else value
            for value in found.values()
        ]
        columns.update(dict.fromkeys(names))
        rows.append(Row(line, dict(zip(names, map(str.strip, map(str, cells)), strict=True))))
    empty = dict.fromkeys(columns, "")
    return list(columns), [Row(row.line, empty | row.cells) for row in rows]


def _decoded(content: bytes) -> str:
    """Return a text in UTF-8, or as its byte order mark says, such as Excel's "Unicode text"."""
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            return content.decode(encoding)
    return content.decode("utf-8-sig")


def _separator(text: str) -> str:
    """Return the separator with which the header has most of the known columns."""
    header = next((line for line in text.splitlines() if line.strip(f' "{_SEPARATORS}')), "")

    def known(separator: str) -> int:
        cells = next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])
        return len(_WORDS.intersection(normal_name(cell).lower() for cell in cells))

    return max(_SEPARATORS, key=known)


def _split_column(file: Path, columns: Sequence[str], rows: Sequence[Row]) -> str | None:
    """Return the column of the splits, if there is one with content."""
    full = [
        each
        for each in ("split", *_HELD_OUT)
        if each in columns and any(row.cells[each] for row in rows)
    ]
    if len(full) > 1:
        raise UsageError(
            f"table {str(file)!r} has the columns {' and '.join(full)}, which both tell "
            f"the split; keep one, such as split with train, val and test"
        )
    return full[0] if full else None


def _split(column: str, cell: str) -> str:
    """Return the split of a cell; a word that is none is returned as it is."""
    if column == "split":
        return split_of(cell) or cell.lower()
    held_out = _TRUTHS.get(cell.lower())
    if held_out is None:
        return cell.lower()
    return _HELD_OUT[column] if held_out else "train"


def _on_disk(file: Path, cell: str, known: dict[Path, dict[str, str]]) -> str:
    """Return the path of an image as it is on the disk, if any reading of the cell is."""
    if is_remote(cell):
        return str(location(cell))
    plain = cell.strip("\"'")
    at_home = os.path.expanduser(plain)  # noqa: PTH111 - the method raises for ~x
    for each in dict.fromkeys((cell, plain, at_home, plain.replace("\\", "/"))):
        path = existing(file.parent / each, known)
        if exists(path):
            return path.as_posix()
    return (file.parent / cell).as_posix()


def _checked(file: Path, line: int, cells: Mapping[str, Any]) -> ImageItem:
    try:
        return _ITEM.validate_python(cells)
    except ValidationError as error:
        of_split = error.errors()[0]["loc"] == ("split",)
        every = ", with a split in every row or in none" if of_split else ""
        raise UsageError(
            f"table {str(file)!r} is invalid in line {line}: {sentence_of(error)}; "
            f"correct it{every}"
        ) from error


def _check_found(file: Path, items: Sequence[ImageItem]) -> None:
    if not any(exists(item.path) for item in items):
        raise PathMissingError(
            f"{str(file)!r} lists {counted(len(items), 'image')}, of which none exists, first "
            f"{items[0].path!r}; correct the paths, which are relative to the table's folder"
        )


def _notes_on(
    columns: Sequence[str], rows: Sequence[Row], split_in: str | None, group_in: str
) -> list[str]:
    """Return what the user should know: other words for splits, and columns that may be meant."""
    named = [each for each in columns if each.removesuffix("_id") in _LIKE_GROUPS]
    notes = [
        f"the column {column} looks like groups: give --group-by {column} to have it read as such"
        for column in named
        if group_in not in columns
    ]
    if split_in:
        cells = sorted({row.cells[split_in] for row in rows})
        read = {cell: _split(split_in, cell) for cell in cells}
        odd = [f"{cell or 'nothing'} is {split}" for cell, split in read.items() if cell != split]
        return notes + [f"the column {split_in} was read as: {', '.join(odd)}"] * bool(odd)
    distinct = {column: {row.cells[column] for row in rows} for column in {*columns} - _KNOWN}
    return notes + [
        f"the column {column} looks like splits, but only a column split is read: rename it"
        for column, cells in sorted(distinct.items())
        if 1 < len(cells) <= _MOST_SPLIT_WORDS and all(map(split_of, cells))
    ]
