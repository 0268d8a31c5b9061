"""Images in the rows of tables, with the labels and splits that the tables tell."""

from collections.abc import Sequence
from pathlib import Path

from bottleneck.images.keyed import label_of_value
from bottleneck.images.splits import split_in, split_of
from bottleneck.images.walking import Walked
from bottleneck.records import RejectedImage
from bottleneck.sources import Rows

__all__ = ["add_rows"]


def add_rows(root: Path, tables: Sequence[tuple[Path, str, Rows]], walked: Walked) -> None:
    """Add the images of tables to others.

    Labels are those of the tables, else none. Splits are those of a column ``split``, else those
    that the tables' names tell, as ``train-00000-of-00002.parquet`` does, or their folders.

    Parameters
    ----------
    root : Path
        What stands for the folder of the tables.
    tables : sequence of (Path, str, Rows)
        What stands for each table's folder, its path, and the table.
    walked : Walked
        The images, which is changed.
    """
    facts, labelled = list[tuple[str | None, str | None]](), False
    for top, text, rows in tables:
        names, labels = rows.names(), rows.labels
        inner = top.relative_to(root).parts
        stem = Path(text).name.partition(".")[0]
        own = next(filter(None, map(split_of, inner)), None) or split_in(stem)
        labelled |= labels is not None
        for number, name in enumerate(names):
            label = None if labels is None else label_of_value(labels[number])
            if labels is not None and label is None:
                reason = "the row has no label"
                walked.rejected.append(RejectedImage(f"{text}/{name}", reason))
                continue
            split = own if rows.splits is None else split_of(rows.splits[number])
            walked.images.append(top / name)
            walked.at.append(f"{text}/{name}")
            facts.append((label, split))
    if tables:
        given = labelled and all(split for _, split in facts)
        walked.told += [(label, split if given else None) for label, split in facts]
