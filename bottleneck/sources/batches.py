"""The row groups of Parquet and Arrow files, read a few rows at a time."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bottleneck.sources.blobs import Blob, window
from bottleneck.sources.schema import has_dictionaries

__all__ = ["AT_ONCE", "ArrowFile", "ParquetFile", "Value"]

AT_ONCE = 8
"""Rows that are read at once."""
_BUFFER = 2**20

Value = bytes | str | Mapping[str, Any] | None
"""A cell with an image: its bytes, its path, both by name, or nothing."""


class ParquetFile:
    """A Parquet file: its row groups are read page by page.

    Parameters
    ----------
    blob : Blob
        The file.
    """

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
        """Return the cells of some columns.

        Parameters
        ----------
        columns : sequence of str
            Their names.

        Returns
        -------
        dict of str to list
        """
        with self._opened() as file:
            found = file.read(columns=list(columns), use_threads=False)
        return {name: found.column(name).to_pylist() for name in columns}

    def read_group(self, group: int, column: str) -> Iterator[list[Value]]:
        """Yield the cells of a column in a row group, a few at a time.

        Parameters
        ----------
        group : int
            Number of the row group.
        column : str
            The name.

        Yields
        ------
        list of Value
        """
        with self._opened(metadata=self._metadata) as file:
            for batch in file.iter_batches(
                AT_ONCE, row_groups=[group], columns=[column], use_threads=False
            ):
                yield batch.column(0).to_pylist()


class ArrowFile:
    """An Arrow file or stream, of which a batch is read at a time.

    Parameters
    ----------
    blob : Blob
        The file.
    """

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
        self._following: tuple[int, Any] = (0, None)
        """The next batch of a stream that can only be read from its start."""

    def read_columns(self, columns: Sequence[str]) -> dict[str, list[Any]]:
        """Return the cells of some columns.

        Parameters
        ----------
        columns : sequence of str
            Their names.

        Returns
        -------
        dict of str to list
        """
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
        """Yield the cells of a column in a row group, a few at a time.

        Parameters
        ----------
        group : int
            Number of the row group.
        column : str
            The name.

        Yields
        ------
        list of Value
        """
        values = self._batch(group).column(column)
        for start in range(0, len(values), AT_ONCE):
            yield values.slice(start, AT_ONCE).to_pylist()

    def _batch(self, group: int) -> Any:
        from pyarrow import ipc

        source = window(self._blob, 0, self._blob.size)
        if self._is_file:
            return ipc.open_file(source).get_batch(group)
        if not has_dictionaries(self.schema):
            source.seek(self._places[group])
            return ipc.read_record_batch(ipc.read_message(source), self.schema)
        number, reader = self._following
        if reader is None or number > group:
            number, reader = 0, ipc.open_stream(source)
        for _ in range(number, group):
            reader.read_next_batch()
        self._following = group + 1, reader
        return reader.read_next_batch()
