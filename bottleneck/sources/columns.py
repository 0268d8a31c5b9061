"""Images in the rows of Parquet and Arrow files, as the datasets of Hugging Face have them."""

import io
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property, partial
from itertools import accumulate
from typing import Any, BinaryIO, NamedTuple

from bottleneck.errors import BadImageError, DataError, first_line
from bottleneck.extras import import_extra
from bottleneck.sources.batches import AT_ONCE, ArrowFile, ParquetFile, Value
from bottleneck.sources.blobs import Blob, Forward
from bottleneck.sources.memory import remembered
from bottleneck.sources.places import is_remote
from bottleneck.sources.schema import columns_of

__all__ = ["Rows"]

_LEAST = (20, 0)
_READER = ThreadPoolExecutor(1, thread_name_prefix="columns")
"""In which pyarrow reads, all files one after the other."""


class _Told(NamedTuple):
    """What a file tells of its rows: as `Rows` has it, and the rows of each of its row groups."""

    labels: list[Any] | None
    splits: list[str | None] | None
    groups: list[str | None] | None
    row_groups: list[int]

    @classmethod
    def recalled(cls, facts: tuple[Any, ...]) -> "_Told | None":
        """Return what was remembered; None if it is something else."""
        match facts:
            case (labels, splits, groups, list() as rows):
                right = all(type(count) is int and count >= 0 for count in rows)
                columns = [each for each in (labels, splits, groups) if each is not None]
                right &= all(isinstance(each, list) for each in columns)
                if right and all(len(each) == sum(rows) for each in columns):
                    texts = (*(splits or ()), *(groups or ()))
                    if all(isinstance(each, str | None) for each in texts):
                        return cls(labels, splits, groups, rows)
        return None

    def is_plain(self) -> bool:
        """Return whether JSON can hold the labels, as it cannot hold bytes or times."""
        with suppress(TypeError, ValueError):
            json.dumps(self.labels)
            return True
        return False


class Rows:
    """The images in the rows of a Parquet or Arrow file; see `Container`.

    A name is the number of a row. Rows are read a few at a time, whatever the size of the file and
    of its row groups; going back means reading a row group from its start.

    Parameters
    ----------
    blob : Blob
        The file.
    suffix : str
        Its ending.
    path : str
        Where it lies: behind a URL, what it tells of the rows may be remembered.
    beside : callable
        Opens a file, given its path relative to the file's folder.

    Attributes
    ----------
    labels : list or None
        The label of each row, as the file has it but for names of classes; None without labels.
    splits, groups : list of (str or None) or None
        The split and the group of each row, as the file has it; None if no row has one.

    Raises
    ------
    MissingExtraError
        pyarrow is not installed.
    DataError
        It is damaged, or has no images; the message is the reason.
    """

    def __init__(
        self, blob: Blob, suffix: str, path: str, beside: Callable[[str], BinaryIO]
    ) -> None:
        what = f"reading *{suffix}"
        pyarrow = import_extra("pyarrow", what, "pyarrow", extra="parquet", least=_LEAST)
        self.version, self._beside = blob.version, beside
        self._error: type[Exception] = pyarrow.ArrowException
        self._open: Callable[[], ParquetFile | ArrowFile] = partial(
            ParquetFile if suffix == ".parquet" else ArrowFile, blob
        )
        known, version = remembered(), blob.version if is_remote(path) else ""
        told = _Told.recalled(known.find(path, version)) if known else None
        if not told:
            try:
                self._opened = told, *_ = self._read()
            except (self._error, OSError) as error:
                raise DataError(f"it is damaged or no such file ({first_line(error)})") from error
            if known and told.is_plain():
                known.add(path, version, *told)
        self.labels, self.splits, self.groups, self._row_groups = told
        self._starts = [0, *accumulate(self._row_groups)]
        self._blocks = Forward[list[Value]](self._begin, _weight)

    @cached_property
    def _opened(self) -> tuple["_Told", "ParquetFile | ArrowFile", str]:
        return self._read()

    def _read(self) -> tuple["_Told", "ParquetFile | ArrowFile", str]:
        """Return what the file tells of its rows, the file, and its column of images."""
        file = self._open()
        image, *others, names = columns_of(file.schema)
        facts = {
            name: [_label(cell, names.get(name, ())) for cell in cells]
            for name, cells in file.read_columns([each for each in others if each]).items()
        }
        labels, splits, groups = [facts.get(each or "") for each in others]
        return _Told(labels, _texts(splits), _texts(groups), file.groups), file, image

    def texts(self, column: str) -> list[str | None] | None:
        """Return the cells of a column, as a CSV table has them.

        Parameters
        ----------
        column : str
            Its name.

        Returns
        -------
        list of (str or None) or None
            None instead of empty cells; None if there is no such column.

        Raises
        ------
        DataError
            It cannot be read.
        """
        try:
            file = self._open()
            if column not in file.schema.names:
                return None
            return [_text(each) for each in file.read_columns([column])[column]]
        except (self._error, OSError) as error:
            raise DataError(
                f"the column {column!r} cannot be read ({first_line(error)}); write the table again"
            ) from error

    def names(self) -> list[str]:
        """Return the numbers of the rows."""
        return [f"{row:06d}" for row in range(self._starts[-1])]

    def refused(self) -> list[tuple[str, str]]:
        """Return nothing: what is no image is found when it is read."""
        return []

    def has(self, name: str) -> bool:
        """Return whether there is a row of a number, see `Container`.

        Parameters
        ----------
        name : str
            Its number.

        Returns
        -------
        bool
        """
        number = name.partition(".")[0]
        return number.isdecimal() and int(number) < self._starts[-1]

    def open(self, name: str) -> BinaryIO:
        """Open a row's image, see `Container`.

        Parameters
        ----------
        name : str
            Its number.

        Returns
        -------
        binary file

        Raises
        ------
        KeyError
            There is no such row.
        BadImageError
            It has no image, or cannot be read.
        """
        if not self.has(name):
            raise KeyError(name)
        value = self._value(int(name.partition(".")[0]))
        content = value.get("bytes") if isinstance(value, Mapping) else value
        if isinstance(content, bytes):
            return io.BytesIO(content)
        path = value.get("path") if isinstance(value, Mapping) else value
        if isinstance(path, str) and path:
            self.version = ""  # which says nothing of the files that rows name
            return self._beside(path)
        raise BadImageError("the row has no image")

    def _value(self, row: int) -> Value:
        """Return a cell; the blocks of a row group begin with its first row."""
        group = bisect_right(self._starts, row) - 1
        inner, place = divmod(row - self._starts[group], AT_ONCE)
        try:
            block = self._blocks.block(self._first_block(group) + inner)
        except self._error as error:
            raise BadImageError(f"its row group is damaged: {first_line(error)}") from error
        if block is None or place >= len(block):
            raise BadImageError("its row group ends too soon")
        value: Value = block[place]
        return value

    def _first_block(self, group: int) -> int:
        return sum(-(-rows // AT_ONCE) for rows in self._row_groups[:group])

    def _begin(self, number: int) -> tuple[int, Iterator[list[Value]]]:
        starts = [0, *accumulate(-(-rows // AT_ONCE) for rows in self._row_groups)]
        group = bisect_right(starts, number) - 1
        return starts[group], self._in_one_thread(self._from_group(group))

    def _in_one_thread(self, blocks: Iterator[list[Value]]) -> Iterator[list[Value]]:
        """Read blocks in one thread, as each thread keeps memory of its own for the next time."""
        while block := _READER.submit(next, blocks, None).result():
            yield block

    def _from_group(self, first: int) -> Iterator[list[Value]]:
        _, file, column = self._opened
        for group in range(first, len(self._row_groups)):
            waiting: list[Value] = []
            for values in file.read_group(group, column):
                waiting += values
                while len(waiting) >= AT_ONCE:
                    yield waiting[:AT_ONCE]
                    waiting = waiting[AT_ONCE:]
            if waiting:
                yield waiting


def _weight(block: list[Value]) -> int:
    contents = (value.get("bytes") if isinstance(value, Mapping) else value for value in block)
    return sum(len(content or b"") for content in contents)


def _label(value: Any, names: Sequence[str]) -> Any:
    """Return the name of a class that is given as a number, else the value; None where none is."""
    if isinstance(value, list):
        return [_label(each, names) for each in value]
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int) and names:
        return names[value] if 0 <= value < len(names) else None  # -1 means none
    return None if value != value else value  # noqa: PLR0124 - NaN, where numbers are missing


def _text(value: Any) -> str | None:
    """Return a cell as a CSV table has it; None if it is empty."""
    value = int(value) if isinstance(value, float) and value.is_integer() else _label(value, ())
    return None if value is None else str(value).strip() or None


def _texts(values: Iterable[Any] | None) -> list[str | None] | None:
    """Return the cells of a column, if there is one; None if all are empty."""
    texts = [_text(each) for each in values or ()]
    return texts if any(texts) else None
