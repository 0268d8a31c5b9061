"""Digests of images behind URLs, remembered so that what has not changed is not read again."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from bottleneck.files import atomic_write
from bottleneck.inputs import read_regular

__all__ = ["Remembered", "digests_remembered", "remembered"]

_FILE = "remote.json"
_SAVE_SECONDS = 30.0
"""After this time, what is new is written, so that a killed process has not read all in vain."""
_FACTS = 3
"""Of an image: the version that its server stated, its digest, and the SHA-256 or null."""
_current: ContextVar["Remembered | None"] = ContextVar("remembered", default=None)


class Remembered:
    """The digests of images by their paths, in one file.

    Parameters
    ----------
    file : Path
        The file; one that is missing or damaged means that nothing is known.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._known = file, _content(file)
        self._new: dict[str, Any] = {}
        self._lock, self._saved = threading.Lock(), time.monotonic()

    def find(self, path: str, version: str) -> tuple[str, str | None] | None:
        """Return an image's digest and SHA-256.

        Parameters
        ----------
        path : str
            Its path.
        version : str
            What its server states now.

        Returns
        -------
        (str, str or None) or None
            None if it is not known, or has changed.
        """
        known = self._known.get(path)
        if not isinstance(known, list) or len(known) != _FACTS:
            return None
        before, digest, sha256 = known
        if before != version or not _is_digest(digest):
            return None
        return digest, sha256 if _is_digest(sha256) else None

    def add(self, path: str, version: str, digest: str, sha256: str | None) -> None:
        """Remember an image.

        Parameters
        ----------
        path, version, digest : str
            See `find`.
        sha256 : str or None
            As of `ImageItem`.
        """
        with self._lock:
            self._known[path] = self._new[path] = [version, digest, sha256]
            late = time.monotonic() - self._saved > _SAVE_SECONDS
        if late:
            self.save()

    def save(self) -> None:
        """Add what is new to the file, in which others may have written; or do not remember it."""
        with self._lock, suppress(OSError):
            self._saved = time.monotonic()
            if self._new:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                both = _content(self._file) | self._new
                atomic_write(self._file, json.dumps(both, indent=0) + "\n")
                self._new = {}


def _content(file: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads(read_regular(file))
        return content if isinstance(content, dict) else {}
    return {}


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")  # noqa: PLR2004 - hexadecimal digits of SHA-256


def remembered() -> Remembered | None:
    """Return the digests that are remembered here, if `digests_remembered` says where.

    Returns
    -------
    Remembered or None
    """
    return _current.get()


@contextmanager
def digests_remembered(folder: str | Path) -> Iterator[None]:
    """Remember the digests of images behind URLs that are opened here, and use those known.

    Parameters
    ----------
    folder : str or Path
        The cache, in which the file ``remote.json`` keeps them.

    Yields
    ------
    None
    """
    own = Remembered(Path(folder) / _FILE)
    before = _current.set(own)
    try:
        yield
    finally:
        _current.reset(before)
        own.save()
