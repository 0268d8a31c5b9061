"""Labels in ``metadata.csv`` or ``metadata.jsonl`` beside images, as Hugging Face's ImageFolder."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from bottleneck.images.items import ImageItem
from bottleneck.images.splits import split_of
from bottleneck.images.tables import read_rows, read_table, usual_names
from bottleneck.images.walking import Walked
from bottleneck.records import RejectedImage
from bottleneck.sources import location

__all__ = ["items_by_metadata"]

_NAMES = frozenset({"metadata.csv", "metadata.jsonl"})
_NEEDED = {"path", "label"}


def items_by_metadata(root: Path, walked: Walked) -> list[ImageItem] | None:
    """Return the images of a folder with what tables beside them tell.

    Parameters
    ----------
    root : Path
        The folder.
    walked : Walked
        What is in it. The tables are taken from its `ignored`, to which images without a row are
        added.

    Returns
    -------
    list of ImageItem or None
        None if there is no such table with the columns ``file_name`` and ``label``.

    Raises
    ------
    UsageError, DataError, PathMissingError
        As for `read_table`.
    """
    files = [location(each) for each in walked.ignored if Path(each).name in _NAMES]
    tables = []
    for file in files:
        columns, _, _ = usual_names(*read_rows(file))
        lacking = _NEEDED.difference(columns)
        if not lacking:
            tables.append(file)
            continue
        names = ["file_name" if each == "path" else each for each in sorted(lacking)]
        walked.notes.append(
            f"{file.as_posix()} has no column {' and no column '.join(names)}, so that labels are "
            f"not read from it"
        )
    if not tables:
        return None
    listed = dict.fromkeys(walked.paths)
    items = [item for file in tables for item in _items(root, file, listed, walked)]
    if not all(item.split for item in items):
        items = [replace(item, split=None) for item in items]
    told = {item.path for item in items}
    used = {file.as_posix() for file in tables}
    walked.ignored = [each for each in walked.ignored if each not in used]
    walked.ignored += [path for path in listed if path not in told]
    return items


def _items(root: Path, file: Path, listed: Iterable[str], walked: Walked) -> Iterable[ImageItem]:
    found = read_table(file, found=True)
    walked.notes += [f"labels were read from {file.as_posix()}", *found.notes]
    inner = file.relative_to(root).parts[:-1] if file.is_relative_to(root) else ()
    split = next((split for part in inner if (split := split_of(part))), None)
    for item in found.items:
        if item.path in listed:
            yield replace(item, split=item.split or split)
        else:
            reason = f"{file.name} lists it, but it is not among the images there"
            walked.rejected.append(RejectedImage(item.path, reason))
