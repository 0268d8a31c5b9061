"""Images in the rows of Parquet and Arrow files, as the datasets of Hugging Face have them."""

import io
import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property, partial
from itertools import accumulate
from typing import Any, BinaryIO, NamedTuple

from bottleneck.errors import BadImageError, DataError, first_line, some_of
from bottleneck.extras import import_extra
from bottleneck.sources.blobs import Blob, Forward, window
from bottleneck.sources.memory import remembered
from bottleneck.sources.places import is_remote

__all__ = ["LABELS", "PATHS", "Rows"]

PATHS = ("file_name", "filename", "file", "image_path", "file_path", "filepath", "image", "img")
"""Names of columns of paths in tables without a column ``path``."""
LABELS = ("labels", "class", "category", "target", "fine_label", "y")
"""Names of columns of classes in tables without a column ``label``."""
_IMAGES = ("image", "img", "picture", "photo", "bytes", "path", *PATHS)
_SPLIT = "split"
_AT_ONCE = 8
"""Rows that are read at once."""
_BUFFER = 2**20
_LEAST = (20, 0)
_READER = ThreadPoolExecutor(1, thread_name_prefix="columns")
"""In which pyarrow reads, all files one after the other."""

Value = bytes | str | Mapping[str, Any] | None
"""A cell with an image: its bytes, its path, both by name, or nothing."""


class _Told(NamedTuple):
    """What a file tells of its rows: as `Rows` has it, and the rows of each of its groups."""

    labels: list[Any] | None
    splits: list[str] | None
    groups: list[int]

    @classmethod
    def recalled(cls, facts: tuple[Any, ...]) -> "_Told | None":
        """Return what was remembered; None if it is something else."""
        match facts:
            case (None | list() as labels, None | list() as splits, list() as groups):
                right = all(type(rows) is int and rows >= 0 for rows in groups)
                if right and all(each is None or len(each) == sum(groups) for each in facts[:2]):
                    return cls(labels, splits and [*map(str, splits)], groups)
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
    labels : list of str or None
        The label of each row; None without labels.
    splits : list of str or None
        The split of each row, as the file has it; None without splits.

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
        self._open: Callable[[], _Parquet | _Arrow] = partial(
            _Parquet if suffix == ".parquet" else _Arrow, blob
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
        self.labels, self.splits, self._groups = told
        self._starts = [0, *accumulate(self._groups)]
        self._blocks = Forward[list[Value]](self._begin, _weight)

    @cached_property
    def _opened(self) -> tuple["_Told", "_Parquet | _Arrow", str]:
        return self._read()

    def _read(self) -> tuple["_Told", "_Parquet | _Arrow", str]:
        """Return what the file tells of its rows, the file, and its column of images."""
        file = self._open()
        features = _features_of(file.schema)
        column = _image_column(file.schema, features)
        label = _label_column(file.schema, features)
        split = _SPLIT if _SPLIT in file.schema.names else None
        facts = file.read_columns([each for each in (label, split) if each])
        names = _class_names(features.get(label or ""))
        labels = [_label(each, names) for each in facts[label]] if label else None
        splits = [str(each) for each in facts[split]] if split else None
        return _Told(labels, splits, file.groups), file, column

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
        inner, place = divmod(row - self._starts[group], _AT_ONCE)
        try:
            block = self._blocks.block(self._first_block(group) + inner)
        except self._error as error:
            raise BadImageError(f"its row group is damaged: {first_line(error)}") from error
        if block is None or place >= len(block):
            raise BadImageError("its row group ends too soon")
        value: Value = block[place]
        return value

    def _first_block(self, group: int) -> int:
        return sum(-(-rows // _AT_ONCE) for rows in self._groups[:group])

    def _begin(self, number: int) -> tuple[int, Iterator[list[Value]]]:
        starts = [0, *accumulate(-(-rows // _AT_ONCE) for rows in self._groups)]
        group = bisect_right(starts, number) - 1
        return starts[group], self._in_one_thread(self._from_group(group))

    def _in_one_thread(self, blocks: Iterator[list[Value]]) -> Iterator[list[Value]]:
        """Read blocks in one thread, as each thread keeps memory of its own for the next time."""
        while block := _READER.submit(next, blocks, None).result():
            yield block

    def _from_group(self, first: int) -> Iterator[list[Value]]:
        _, file, column = self._opened
        for group in range(first, len(self._groups)):
            waiting: list[Value] = []
            for values in file.read_group(group, column):
                waiting += values
                while len(waiting) >= _AT_ONCE:
                    yield waiting[:_AT_ONCE]
                    waiting = waiting[_AT_ONCE:]
            if waiting:
                yield waiting


class _Parquet:
    """A Parquet file: its row groups are read page by page."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob
        with self._opened() as file:
            self._metadata = file.metadata
            self.schema = file.schema_arrow
        count = self._metadata.num_row_groups
        self.groups = [self._metadata.row_group(each).num_rows for each in range(count)]

    def _opened(self, **options: Any) -> Any:
        from pyarrow import parquet

        source = window(self._blob, 0, self._blob.size)
        # Ahead, whole row groups would be read, which may be the whole file.
        return parquet.ParquetFile(source, buffer_size=_BUFFER, pre_buffer=False, **options)

    def read_columns(self, columns: Sequence[str]) -> dict[str, list[Any]]:
        with self._opened() as file:
            found = file.read(columns=list(columns), use_threads=False)
        return {name: found.column(name).to_pylist() for name in columns}

    def read_group(self, group: int, column: str) -> Iterator[list[Value]]:
        with self._opened(metadata=self._metadata) as file:
            for batch in file.iter_batches(
                _AT_ONCE, row_groups=[group], columns=[column], use_threads=False
            ):
                yield batch.column(0).to_pylist()


class _Arrow:
    """An Arrow file or stream, of which a batch is read at a time."""

    def __init__(self, blob: Blob) -> None:
        from pyarrow import ipc

        self._blob = blob
        self._is_file = blob.read_at(0, 6) == b"ARROW1"
        self.groups: list[int] = []
        self._places: list[int] = []
        source = window(blob, 0, blob.size)
        self._reader = ipc.open_file(source) if self._is_file else ipc.open_stream(source)
        self.schema = self._reader.schema
        self._source = source

    def read_columns(self, columns: Sequence[str]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {name: [] for name in columns}
        for batch in self._batches():
            self.groups.append(batch.num_rows)
            for name in columns:
                found[name] += batch.column(name).to_pylist()
        return found

    def _batches(self) -> Iterator[Any]:
        if self._is_file:
            for number in range(self._reader.num_record_batches):
                yield self._reader.get_batch(number)
            return
        place = self._source.tell()
        while True:
            try:
                batch = self._reader.read_next_batch()
            except StopIteration:
                return
            self._places.append(place)
            place = self._source.tell()
            yield batch

    def read_group(self, group: int, column: str) -> Iterator[list[Value]]:
        from pyarrow import ipc

        source = window(self._blob, 0, self._blob.size)
        if self._is_file:
            batch = ipc.open_file(source).get_batch(group)
        else:
            source.seek(self._places[group])
            batch = ipc.read_record_batch(ipc.read_message(source), self.schema)
        values = batch.column(column)
        for start in range(0, len(values), _AT_ONCE):
            yield values.slice(start, _AT_ONCE).to_pylist()


def _weight(block: list[Value]) -> int:
    contents = (value.get("bytes") if isinstance(value, Mapping) else value for value in block)
    return sum(len(content or b"") for content in contents)


def _features_of(schema: Any) -> dict[str, Any]:
    """Return what Hugging Face's datasets say of the columns; nothing where they do not."""
    content = (schema.metadata or {}).get(b"huggingface", b"{}")
    with suppress(ValueError, RecursionError, KeyError, TypeError, AttributeError):
        features = json.loads(content)["info"]["features"]
        return {name: each for name, each in features.items() if isinstance(each, dict)}
    return {}


def _image_column(schema: Any, features: Mapping[str, Any]) -> str:
    """Return the column with images."""
    from pyarrow import types

    own = [name for name, each in features.items() if each.get("_type") == "Image"]

    def holds(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(kind.field(each).name == "bytes" for each in range(kind.num_fields))
        return any(test(kind) for test in (types.is_binary, types.is_large_binary))

    full = [name for name in schema.names if holds(schema.field(name).type)]
    named = [name for name in _IMAGES if name in schema.names]
    own += [name for name in named if name in full]
    own += full if len(full) == 1 else []
    texts = (types.is_string, types.is_large_string)
    own += [name for name in named if any(test(schema.field(name).type) for test in texts)]
    if not own:
        raise DataError(
            f"it has no column of images; expected a column image, of bytes or of paths, but it "
            f"has {some_of(schema.names) or 'none'}"
        )
    return own[0]


def _label_column(schema: Any, features: Mapping[str, Any]) -> str | None:
    own = [name for name, each in features.items() if _class_names(each)]
    own += [name for name in ("label", *LABELS) if name in schema.names]
    return next(iter(own), None)


def _class_names(feature: Any) -> list[str]:
    """Return the names of classes that are given as numbers, also of several in a list."""
    inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
    names = inner.get("names") if isinstance(inner, dict) else None
    return [str(each) for each in names] if isinstance(names, list) else []


def _label(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_label(each, names) for each in value]
    if isinstance(value, int) and not isinstance(value, bool) and names:
        return names[value] if 0 <= value < len(names) else None  # -1 means none
    return value
