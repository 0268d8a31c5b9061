"""What files behind URLs say, remembered so that what has not changed is not read again."""

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
from bottleneck.sources.remote import forget_stated

__all__ = ["Remembered", "digests_remembered", "remembered"]

_FILE = "remote.json"
_SAVE_SECONDS, _SHARE = 30.0, 0.05
"""After this time, what is new is written, so that a killed process has not read all in vain; later
where writing would take more than this share of the time."""
_current: ContextVar["Remembered | None"] = ContextVar("remembered", default=None)


class Remembered:
    """What is known of files by their paths, in one file of JSON.

    Of an image it is the digest, and the SHA-256 or null; of a tar archive, where its files lie; of
    a file beside an image, the label that it tells.

    Parameters
    ----------
    file : Path
        The file; one that is missing or damaged means that nothing is known.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._known = file, _content(file)
        self._new: dict[str, Any] = {}
        self._lock, self._due = threading.Lock(), time.monotonic() + _SAVE_SECONDS

    def find(self, path: str, version: str) -> tuple[Any, ...]:
        """Return what is known of a file.

        Parameters
        ----------
        path : str
            Its path.
        version : str
            What its server states now; "" if it states nothing.

        Returns
        -------
        tuple of objects
            What `add` was given, unless somebody has changed the file of them; empty if nothing is
            known, or the file behind the URL has changed.
        """
        match self._known.get(path):
            case [before, *facts] if version and before == version:
                return tuple(facts)
        return ()

    def add(self, path: str, version: str, *facts: Any) -> None:
        """Remember a file, if its server states a version.

        Parameters
        ----------
        path, version : str
            See `find`.
        *facts : objects
            What is known of it, in types of JSON.
        """
        if not version:
            return
        with self._lock:
            self._known[path] = self._new[path] = [version, *facts]
            due = time.monotonic() > self._due
        if due:
            self.save()

    def save(self) -> None:
        """Add what is new to the file, in which others may have written; or do not remember it."""
        with self._lock:
            started = time.monotonic()
            with suppress(OSError):
                if self._new:
                    self._file.parent.mkdir(parents=True, exist_ok=True)
                    both = _content(self._file) | self._new
                    atomic_write(self._file, json.dumps(both, indent=0) + "\n")
                    self._new = {}
            ended = time.monotonic()
            self._due = ended + max(_SAVE_SECONDS, (ended - started) / _SHARE)


def _content(file: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads(read_regular(file))
        return content if isinstance(content, dict) else {}
    return {}


def remembered() -> Remembered | None:
    """Return what is remembered here, if `digests_remembered` says where.

    Returns
    -------
    Remembered or None
    """
    return _current.get()


@contextmanager
def digests_remembered(folder: str | Path) -> Iterator[None]:
    """Remember what is read of images behind URLs that are opened here, and use what is known.

    Parameters
    ----------
    folder : str or Path
        The cache, in which the file ``remote.json`` keeps it.

    Yields
    ------
    None
    """
    forget_stated()
    own = Remembered(Path(folder) / _FILE)
    before = _current.set(own)
    try:
        yield
    finally:
        _current.reset(before)
        own.save()
