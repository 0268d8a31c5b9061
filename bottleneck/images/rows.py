"""Images in the rows of tables, with the labels, splits and groups that the tables tell."""

import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bottleneck.images.keyed import label_of_value
from bottleneck.images.splits import split_in, split_of
from bottleneck.images.walking import Told, Walked
from bottleneck.names import normal_name
from bottleneck.records import RejectedImage
from bottleneck.sources import Rows

__all__ = ["add_rows"]


def add_rows(
    root: Path,
    tables: Sequence[tuple[Path, str, Rows]],
    walked: Walked,
    group_by: str | None = None,
) -> None:
    """Add the images of tables to others.

    Labels are those of the tables, else none. Splits are those of a column ``split``, else those
    that the tables' names tell, as ``train-00000-of-00002.parquet`` does, or their folders. Where
    there is such a column, a row without a split has "", and one with an unknown word this word.

    Parameters
    ----------
    root : Path
        What stands for the folder of the tables.
    tables : sequence of (Path, str, Rows)
        What stands for each table's folder, its path, and the table.
    walked : Walked
        The images, which is changed.
    group_by : str, optional
        The column with the groups, if a table has it, else it is ``group``.
    """
    by_column = [rows.texts(group_by) for _, _, rows in tables] if group_by else []
    walked.by_column = any(each is not None for each in by_column)
    facts, labelled, column = list[Told](), False, False
    for table, (top, text, rows) in enumerate(tables):
        names, labels, splits = rows.names(), rows.labels, rows.splits
        groups = by_column[table] if walked.by_column else rows.groups
        inner = top.relative_to(root).parts
        stem = Path(text).name.partition(".")[0]
        own = next(filter(None, map(split_of, inner)), None) or split_in(stem)
        labelled |= labels is not None
        column |= splits is not None
        for number, name in enumerate(names):
            label = None if labels is None else label_of_value(labels[number])
            if labels is not None and label is None:
                reason = _reason(labels[number])
                walked.rejected.append(RejectedImage(f"{text}/{name}", reason))
                continue
            word = own if splits is None else splits[number]
            group = groups[number] if groups else None
            walked.images.append(top / name)
            walked.at.append(f"{text}/{name}")
            facts.append((label, word and (split_of(word) or word), group and normal_name(group)))
    if tables:
        given = labelled and (column or all(split for _, split, _ in facts))
        walked.told += [
            (label, (split or "") if given else None, group) for label, split, group in facts
        ]


def _reason(value: Any) -> str:
    """Return why a row has no label that can be used."""
    if value is None or value in ("", []):
        return "the row has no label"
    return (
        f"its label is {reprlib.repr(value)}, expected a text, a whole number, or a list of these"
    )
