"""Leases: which images each of several extractions computes, as files that all of them see.

A lease is a file of one process. It names the banks that the process adds rows to, and the images
whose rows it is computing; other processes leave these out. Leases are taken one process at a time,
under a lock, so that no image is in two of them. The time of the file is renewed while the process
works. If the process is killed, others take its images over: at once on the same computer, where
processes are known, and else when the file has not changed for `STALE_SECONDS` of one's own clock,
so that clocks of computers are never compared.
"""

import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from bottleneck import locks
from bottleneck.cache.hdf5 import errors_of
from bottleneck.errors import CacheError
from bottleneck.files import sibling
from bottleneck.folders import leftover_of, remove_stale
from bottleneck.inputs import open_regular
from bottleneck.locks import Holder, locked

__all__ = [
    "EVERYONE",
    "LEASES",
    "Leases",
    "has_lease",
    "is_lease",
    "is_passing",
    "lease_name",
    "remove_abandoned",
]

LEASES = "leases"
"""Name of the folder in a cache."""
EVERYONE = "all"
"""The scope of extractions that divide all images among themselves."""
_SCOPE = r"(?:all|[0-9]{1,9}-of-[0-9]{1,9})"
_LEASE_NAME = re.compile(rf"({_SCOPE})\.[0-9a-f]{{16}}\.lease")
_LOCK_NAME = re.compile(rf"\.{_SCOPE}\.held(?:\.takeover)?")
_DIGITS = 16
"""Of a digest, enough to tell images apart: of 10^9, two that begin alike wait for each other."""

Choose = Callable[[Sequence[Collection[str]]], Sequence[str]]
"""Takes what each other process has leased, as `lease_name`s, and returns digests to hold."""


def lease_name(digest: str) -> str:
    """Return the beginning of a digest, by which an image is named in leases.

    Parameters
    ----------
    digest : str
        SHA-256 of an image, hexadecimal.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    return digest[:_DIGITS]


@dataclass(frozen=True)
class _Lease:
    """The content of a lease, and what changes when it is renewed."""

    holder: Holder
    banks: frozenset[str]
    images: frozenset[str]
    state: tuple[int, int]


@dataclass
class Leases:
    """The leases of this process in a cache; use it as a context manager, which ends them.

    Parameters
    ----------
    root : Path
        The cache folder.
    scope : str
        Only processes of one scope divide images: `EVERYONE`, or ``I-of-N`` for those of a shard.
    """

    root: Path
    scope: str = EVERYONE
    _seen: dict[str, tuple[tuple[int, int], float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = self.root / LEASES
        self._own = self.folder / f"{self.scope}.{secrets.token_hex(8)}.lease"
        self._done = threading.Event()
        self._beating: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._beating:
            self._beating.join()
        self.drop()
        with suppress(OSError):  # others work, or the folder was never there
            if not self.folder.is_symlink():
                self.folder.rmdir()

    def take(self, banks: Collection[str], choose: Choose) -> list[str]:
        """Hold a lease on other images than before.

        Parameters
        ----------
        banks : collection of str
            Names of the banks that get rows of these images.
        choose : callable
            Called while no other process takes a lease, with the images that others have leased
            for any of these banks; returns the digests of all images to hold.

        Returns
        -------
        list of str
            What `choose` returned.

        Raises
        ------
        CacheError
            The lease cannot be written.
        """
        with self._alone():
            chosen = list(choose(self.others(banks, remove=True)))
            if chosen:
                self._hold(banks, chosen)
            else:
                self.drop()
        return chosen

    def others(self, banks: Collection[str], *, remove: bool = False) -> list[frozenset[str]]:
        """Return what other living processes have leased for any of some banks.

        Parameters
        ----------
        banks : collection of str
            Names of banks.
        remove : bool
            Whether to remove leases of processes that have ended.

        Returns
        -------
        list of frozenset of str
            For each process the `lease_name` of its images; none of processes of other banks.
        """
        found, there = [], set()
        for path in _lease_files(self.folder, self.scope):
            if path == self._own or not (lease := _read(path)):
                continue
            there.add(path.name)
            state, since = self._seen.get(path.name, (None, 0.0))
            if state != lease.state:
                since = time.monotonic()
                self._seen[path.name] = lease.state, since
            if lease.holder.is_dead or time.monotonic() - since > locks.STALE_SECONDS:
                if remove:
                    path.unlink(missing_ok=True)
            elif not lease.banks.isdisjoint(banks):
                found.append(lease.images)
        for gone in self._seen.keys() - there:
            del self._seen[gone]
        return found

    def drop(self) -> None:
        """End the lease, once the rows of its images are in parts, or will not be computed."""
        with suppress(OSError):  # it is not there; or it stays, and ends with this process
            self._own.unlink()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Be the only process that takes a lease, in a folder that is there."""
        if self.folder.is_symlink():
            raise CacheError(
                f"{str(self.folder)!r} is a link, and the cache writes its leases to no other "
                f"folder; remove the link"
            )
        with ExitStack() as stack:
            while True:  # until no other process has just removed the empty folder
                with suppress(FileNotFoundError), errors_of(self.folder):
                    self.folder.mkdir(parents=True, exist_ok=True)
                    stack.enter_context(locked(self.folder / f".{self.scope}.held"))
                    break
            yield

    def _hold(self, banks: Collection[str], digests: Sequence[str]) -> None:
        content = {
            **_beginning(Holder.current()),
            "banks": sorted(banks),
            "images": "".join(map(lease_name, digests)),
        }
        temporary = sibling(self._own)
        with errors_of(self._own):
            try:
                temporary.write_text(json.dumps(content))
                temporary.replace(self._own)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        if self._beating is None:
            self._beating = threading.Thread(target=self._beat, daemon=True)
            self._beating.start()

    def _beat(self) -> None:
        """Renew the time of the lease while it is held."""
        while not self._done.wait(locks.BEAT_SECONDS):
            with suppress(OSError):
                os.utime(self._own)


def is_lease(path: Path) -> bool:
    """Return whether a file is a lease, by its name and its content.

    Parameters
    ----------
    path : Path
        A path in the folder of leases; a link is none.

    Returns
    -------
    bool
    """
    named = _LEASE_NAME.fullmatch(path.name) and not path.is_symlink()
    return bool(named and _read(path))


def has_lease(root: Path, holder: Holder) -> bool:
    """Return whether a process has a lease in a cache; only the beginnings of leases are read.

    Parameters
    ----------
    root : Path
        The cache folder.
    holder : Holder
        The process.

    Returns
    -------
    bool
    """
    beginning = json.dumps(_beginning(holder))[:-1].encode()
    for path in _lease_files(root / LEASES):
        with suppress(OSError), open_regular(path) as file:  # one that has just ended
            if file.read(len(beginning)) == beginning:
                return True
    return False


def _beginning(holder: Holder) -> dict[str, object]:
    """Return what a lease begins with, so that it tells its process before its many images."""
    return {"holder": asdict(holder)}


def is_passing(name: str) -> bool:
    """Return whether a file in the folder of leases is there only for a moment, by its name.

    Parameters
    ----------
    name : str
        Name of a file.

    Returns
    -------
    bool
        Whether it is a lock, or unfinished.
    """
    finished = leftover_of(name) or name
    unfinished = finished != name and _LEASE_NAME.fullmatch(finished)
    return bool(unfinished or _LOCK_NAME.fullmatch(finished))


def remove_abandoned(root: Path) -> None:
    """Remove the leases of processes that have ended, and what they left unfinished.

    Parameters
    ----------
    root : Path
        The cache folder. Nothing is removed behind a link, nor what cannot be removed.
    """
    folder = root / LEASES
    if folder.is_symlink() or not folder.is_dir():
        return
    remove_stale(folder, lambda name: is_passing(name) or is_lease(folder / name))
    with suppress(OSError):
        for path in _lease_files(folder):
            if (lease := _read(path)) and lease.holder.is_dead:
                path.unlink(missing_ok=True)
        folder.rmdir()


def _lease_files(folder: Path, scope: str | None = None) -> list[Path]:
    """Return the files in a folder with the name of a lease, of one scope or of all."""
    try:
        with os.scandir(folder) as entries:
            names = [each.name for each in entries if each.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    named = ((name, _LEASE_NAME.fullmatch(name)) for name in sorted(names))
    return [folder / name for name, found in named if found and scope in {None, found[1]}]


def _read(path: Path) -> _Lease | None:
    """Return a lease; None if it has just ended, or is damaged and holds nothing."""
    try:
        with open_regular(path) as file:
            found = os.fstat(file.fileno())
            content = json.loads(file.read())
        images: str = content["images"]
        return _Lease(
            Holder(**content["holder"]),
            frozenset(content["banks"]),
            frozenset(images[at : at + _DIGITS] for at in range(0, len(images), _DIGITS)),
            (found.st_ino, found.st_mtime_ns),
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
