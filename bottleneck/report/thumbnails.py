"""Small pictures of images, made once and kept in the cache folder."""

import io
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from bottleneck.cache import Cache
from bottleneck.errors import BadImageError, unquoted
from bottleneck.images import ImageItem, in_threads, read_file, read_size
from bottleneck.pictures import thumbnail

__all__ = ["Thumbnail", "thumbnails_of"]

SIDE = 128
"""Maximum width and height in pixels."""
_QUALITY = 75
_FILE = "thumbnails.sqlite"
_OURS = 0x626E746E
"""SQLite's ``application_id`` of our file, by which it is told from those of others."""
_TABLE = f"side_{SIDE}"
_AT_ONCE = 256
_SECONDS = 10.0
"""How long another process may write."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture of an image.

    Attributes
    ----------
    jpeg : bytes
        The picture, at most `SIDE` pixels wide and high; empty if there is none.
    width, height, size : int
        Pixels and bytes of the image itself; 0 if they are unknown.
    missing : str
        Why there is no picture.
    """

    jpeg: bytes = b""
    width: int = 0
    height: int = 0
    size: int = 0
    missing: str = ""


def thumbnails_of(
    items: Iterable[ImageItem],
    cache: Cache | None = None,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Thumbnail]:
    """Return the thumbnails of images by digest; those in the cache folder are not made again.

    New ones are kept in ``thumbnails.sqlite`` in the cache folder, unless it can only be read, or
    has a file of that name that is not ours.

    Parameters
    ----------
    items : iterable of ImageItem
        The images.
    cache : Cache, optional
        Where thumbnails are kept; without it they are not.
    progress : callable, optional
        Called with ``"thumbnails"``, the number of images done and their total.

    Returns
    -------
    dict of str to Thumbnail
        One for each digest; without a picture where the file cannot be read.
    """
    distinct = {item.digest: item for item in items}
    report = progress or (lambda *_: None)
    with closing(_Kept(cache)) as kept:
        found = kept.find(list(distinct))
        report("thumbnails", len(found), len(distinct))
        lacking = [item for digest, item in distinct.items() if digest not in found]
        made = zip(lacking, in_threads(_make, lacking, workers=_workers()), strict=True)
        while new := {item.digest: thumbnail for item, thumbnail in islice(made, _AT_ONCE)}:
            kept.add(new)
            found |= new
            report("thumbnails", len(found), len(distinct))
    return found


def _workers() -> int:
    return min(8, os.cpu_count() or 1)


def _make(item: ImageItem) -> Thumbnail:
    try:
        data = read_file(item)
        picture = thumbnail(data, SIDE)
    except BadImageError as error:
        return Thumbnail(missing=unquoted(error))
    height, width = read_size(io.BytesIO(data))
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=_QUALITY)
    return Thumbnail(target.getvalue(), width, height, len(data))


class _Kept:
    """The file of thumbnails, as far as it can be read and written."""

    def __init__(self, cache: Cache | None) -> None:
        self._opened: sqlite3.Connection | None = None
        if cache is not None and cache.root.is_dir():
            with suppress(sqlite3.Error):
                self._opened = _connected(cache.root / _FILE)

    def find(self, digests: Sequence[str]) -> dict[str, Thumbnail]:
        return {
            digest: Thumbnail(jpeg, width, height, size)
            for digest, jpeg, width, height, size in self._rows(digests)
        }

    def _rows(self, digests: Sequence[str]) -> Iterator[tuple[str, bytes, int, int, int]]:
        if self._opened is None:
            return
        columns = "digest, jpeg, width, height, size"
        with suppress(sqlite3.Error):
            for start in range(0, len(digests), _AT_ONCE):
                some = digests[start : start + _AT_ONCE]
                marks = ", ".join("?" * len(some))
                query = f"SELECT {columns} FROM {_TABLE} WHERE digest IN ({marks})"  # noqa: S608 - names of ours
                yield from self._opened.execute(query, some)

    def add(self, found: dict[str, Thumbnail]) -> None:
        rows = [
            (digest, each.jpeg, each.width, each.height, each.size)
            for digest, each in found.items()
            if each.jpeg
        ]
        if self._opened is not None:
            with suppress(sqlite3.Error), self._opened:
                self._opened.executemany(
                    f"INSERT OR IGNORE INTO {_TABLE} VALUES (?, ?, ?, ?, ?)",  # noqa: S608
                    rows,
                )

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()


def _connected(file: Path) -> sqlite3.Connection | None:
    """Open the file of thumbnails, or make it; None if it is a link or a file of somebody else."""
    if file.is_symlink() or (file.exists() and not file.is_file()):
        return None
    new = not file.exists() or not file.stat().st_size
    opened = sqlite3.connect(file, timeout=_SECONDS)
    try:
        if new:
            opened.execute(f"PRAGMA application_id = {_OURS}")
        if opened.execute("PRAGMA application_id").fetchone() != (_OURS,):
            opened.close()
            return None
        columns = "digest TEXT PRIMARY KEY, jpeg BLOB, width INT, height INT, size INT"
        with suppress(sqlite3.Error), opened:  # whose file can only be read has the table
            opened.execute(f"CREATE TABLE IF NOT EXISTS {_TABLE} ({columns})")
    except sqlite3.Error:
        opened.close()
        raise
    return opened
