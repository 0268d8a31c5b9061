"""Locks between processes, as files that tell who holds them, on any file system.

The system's own locks are not used, as some network file systems do not have them, or only between
processes of one computer. A lock is a file that only one process can create; its time is renewed
while it is held. If the holder is killed, the lock is taken over: at once on the same computer,
where processes are known, and else when its time has not been renewed.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from bottleneck.files import sibling
from bottleneck.folders import age_of
from bottleneck.inputs import read_regular

__all__ = ["BEAT_SECONDS", "STALE_SECONDS", "Holder", "LockHeldError", "locked"]

BEAT_SECONDS = 5.0
"""Seconds between two renewals."""
STALE_SECONDS = 60.0
"""Seconds without a renewal after which a lock of another computer is watched, and taken over."""
_PAUSE = 0.02
_BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")
_START_FIELD = 19
"""Of the start of a process, counted from the end of its name in ``/proc/PID/stat``."""

_ENDED = ("Z", "X")
"""States of a process that nobody has waited for."""

Check = Callable[[], bool]
"""Returns whether the lock is still held: another process takes it over if this one stood still."""


class LockHeldError(Exception):
    """Another process holds the lock; the message is its `Holder`."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes
    ----------
    host, place : str
        The computer, and its boot and process table, within which processes are known by number.
    process, started : int, str
        Number of the process, and when it was started, as numbers are used again.
    """

    host: str
    place: str
    process: int
    started: str

    @classmethod
    def current(cls) -> Self:
        """Return this process."""
        boot, namespace = "", ""
        with suppress(OSError):
            boot = _BOOT_FILE.read_text().strip()
            namespace = str(_NAMESPACE.readlink())
        number = os.getpid()
        return cls(socket.gethostname(), f"{boot} {namespace}".strip(), number, _start_of(number))

    @property
    def is_dead(self) -> bool:
        """Whether the process is known to have ended; False for one of another computer."""
        here = Holder.current()
        if (self.host, self.place) != (here.host, here.place) or not self.place:
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # of another user
            return False
        return bool(self.started) and _start_of(self.process) != self.started

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


def _start_of(process: int) -> str:
    """Return the start of a process, in the system's ticks; nothing if it is unknown or ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in _ENDED else fields[_START_FIELD]
    except (OSError, IndexError):
        return ""


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[Check]:
    """Hold a lock while the block runs.

    Parameters
    ----------
    path : Path
        File of the lock, in an existing folder; it exists as long as the lock is held.
    wait : bool
        Whether to wait until the lock is free.

    Yields
    ------
    callable
        Returns whether the lock is still held. Ask before something that cannot be undone.

    Raises
    ------
    LockHeldError
        Another process holds it, and `wait` is False.
    OSError
        The file cannot be written.
    """
    handle = _create(path)
    while handle is None:
        _take_away_stale(path)
        handle = _create(path)
        if handle is None:
            if not wait:
                raise LockHeldError(_read(path) or "another process")
            time.sleep(_PAUSE)
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, handle, done), daemon=True)
    try:
        beating.start()
        yield lambda: _is_same(path, handle)
    finally:
        done.set()
        if beating.ident:
            beating.join()
        held = _is_same(path, handle)
        os.close(handle)
        if held:
            path.unlink(missing_ok=True)


def _create(path: Path) -> int | None:
    """Create a lock that says at once who holds it; return None if it is there."""
    whole = sibling(path)
    handle = _created(whole)
    try:
        os.link(whole, path)
    except FileExistsError:
        os.close(handle)
        return None
    except (OSError, NotImplementedError):  # a file system without hard links
        os.close(handle)
        try:
            return _created(path)
        except FileExistsError:
            return None
    finally:
        whole.unlink(missing_ok=True)
    return handle


def _created(path: Path) -> int:
    """Create a file with the name of this process; `FileExistsError` if it is there."""
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        os.write(handle, json.dumps(asdict(Holder.current())).encode())
    except OSError:  # a full disk
        os.close(handle)
        path.unlink(missing_ok=True)
        raise
    return handle


def _beat(path: Path, handle: int, done: threading.Event) -> None:
    """Renew the time of a lock until it is released or another process has it."""
    while not done.wait(BEAT_SECONDS):
        with suppress(OSError):  # once more at the next beat
            if _is_same(path, handle):
                os.utime(path)


def _is_same(path: Path, handle: int) -> bool:
    """Return whether a path still leads to an opened file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except OSError:
        return False


def _read(path: Path) -> Holder | None:
    """Return who holds a lock; None if that is not written there."""
    try:
        return Holder(**json.loads(read_regular(path)))
    except (OSError, ValueError, TypeError):
        return None


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Return what is another one once a lock is renewed or another's; None if it is free."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _take_away_stale(path: Path) -> None:
    """Remove a lock whose holder has ended."""
    before = _identity(path)
    holder = _read(path)
    known_dead = holder is not None and holder.is_dead
    if before is None or not (known_dead or _has_stopped(path, before)):
        return
    guard = path.with_name(f"{path.name}.takeover")  # so that nobody removes the next one's lock
    handle = _create(guard)
    if handle is None:
        other = _read(guard)
        if (other and other.is_dead) or age_of(guard) > STALE_SECONDS:
            guard.unlink(missing_ok=True)
        return
    try:
        if _identity(path) == before:
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)
        guard.unlink(missing_ok=True)


def _has_stopped(path: Path, before: tuple[int, int, int]) -> bool:
    """Return whether a lock has not been renewed for long, nor while it is watched now."""
    if age_of(path) <= STALE_SECONDS:
        return False
    end = time.monotonic() + 2 * BEAT_SECONDS  # the clock may have been set
    while _identity(path) == before:
        if time.monotonic() > end:
            return True
        time.sleep(_PAUSE)
    return False
