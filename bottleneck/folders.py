"""Folders that are replaced whole, and leftovers of killed processes.

A reader sees the old folder or the new one, whatever is killed.
"""

import ctypes
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from errno import EEXIST, ENOTEMPTY
from pathlib import Path

from bottleneck.files import fsync_folder, make_folder, sibling

__all__ = [
    "age_of",
    "is_leftover",
    "leftover_of",
    "remove_leftovers",
    "remove_stale",
    "replaced_folder",
    "restore_in",
    "restored",
]

_LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(partial|replaced)", re.DOTALL)
_PARTIAL, _REPLACED = "partial", "replaced"
_STALE_SECONDS = 3600.0
_CURRENT = -100
_SWAP = 2
"""Linux's numbers of the current folder, in place of an opened one, and of the flag."""


@contextmanager
def replaced_folder(target: Path, owned: Callable[[str], bool]) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `target` at the end, as a whole.

    Until then it is a sibling of `target`, with a hidden name, and `target` is as it was. What
    others have put into `target` stays: it is linked into the new folder before that takes its
    place. Leftovers of killed processes are removed.

    Parameters
    ----------
    target : Path
        The folder, which need not exist. A link is followed.
    owned : callable
        Takes the name of a file in `target`, and returns whether it goes with the old folder.

    Yields
    ------
    Path
        The new folder; its files must be synced to disk by the one who writes them.

    Raises
    ------
    OSError
        A folder cannot be written; `target` is as it was.
    """
    target = target.resolve() if target.is_symlink() else target
    restored(target)
    remove_leftovers(target.parent, target.name)
    make_folder(target.parent)
    with ExitStack() as stack:
        new = _created(target, stack)
        stack.callback(shutil.rmtree, new, ignore_errors=True)
        yield new
        if target.is_dir():
            shutil.copymode(target, new)
            _keep_others(target, new, owned)
        fsync_folder(new)
        old = _put_in_place(new, target)
        fsync_folder(target.parent)
        if old:
            with suppress(FileNotFoundError):  # another process has removed it as a leftover
                _keep_others(old, target, owned)  # what has just been written there
            shutil.rmtree(old, ignore_errors=True)


def _created(target: Path, stack: ExitStack) -> Path:
    """Create a folder beside `target`, locked until the end of `stack`."""
    while True:
        new = sibling(target)
        new.mkdir()
        try:
            stack.enter_context(_held(new))
        except (BlockingIOError, FileNotFoundError):  # just being removed as a leftover
            continue
        return new


def _keep_others(old: Path, new: Path, owned: Callable[[str], bool]) -> None:
    """Link everything in a folder that is not `owned` into another folder, unless it is there."""
    for path in old.iterdir():
        if owned(path.name) or os.path.lexists(new / path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new / path.name, symlinks=True, copy_function=_link)
        else:
            _link(path, new / path.name)


def _link(path: str | Path, target: str | Path) -> None:
    """Give a file a second name; copy it where the file system has no hard links."""
    try:
        os.link(path, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        if not Path(path).is_symlink() and not Path(path).is_file():
            raise
        shutil.copy2(path, target, follow_symlinks=False)


def _put_in_place(new: Path, target: Path) -> Path | None:
    """Rename a folder to `target`; return where the folder is that had the name, if any."""
    while True:
        old = sibling(target, _REPLACED) if target.is_dir() else None
        if old and _swapped(new, target):
            return new
        with suppress(FileNotFoundError):
            if old:
                target.rename(old)
            try:
                new.rename(target)
            except OSError as error:
                if error.errno not in {EEXIST, ENOTEMPTY}:  # unless a reader has put it back
                    restored(target)
                    raise
            else:
                return old


def _swapped(one: Path, other: Path) -> bool:
    """Exchange the names of two folders at once; return False where the system cannot."""
    with suppress(AttributeError, OSError, TypeError):
        first, second = map(os.fsencode, (one, other))
        return not ctypes.CDLL(None).renameat2(_CURRENT, first, _CURRENT, second, _SWAP)
    return False


def restored(target: Path) -> bool:
    """Return whether a folder is there, after renaming it back if its replacement was killed.

    Parameters
    ----------
    target : Path
        The folder.

    Returns
    -------
    bool
    """
    if not os.path.lexists(target):
        restore_in(target.parent, target.name)
    return target.is_dir()


def restore_in(folder: Path, name: str | None = None) -> None:
    """Rename folders back whose replacement was killed, where two renames were needed for it.

    Parameters
    ----------
    folder : Path
        The folder of the folders, which need not exist.
    name : str, optional
        Name of one of them; by default all.
    """
    with suppress(OSError):  # another process has done it, or nothing can be written
        for path in folder.iterdir():
            found = _LEFTOVER.fullmatch(path.name)
            if not found or found[2] != _REPLACED or name not in {None, found[1]}:
                continue
            if not os.path.lexists(folder / found[1]):
                path.rename(folder / found[1])


def is_leftover(name: str) -> bool:
    """Return whether a folder's name is that of an unfinished or a replaced one.

    Parameters
    ----------
    name : str
        Name of a folder.

    Returns
    -------
    bool
    """
    return bool(_LEFTOVER.fullmatch(name))


def leftover_of(name: str) -> str | None:
    """Return the name of the file that a temporary one of `atomic_file` was to become.

    Parameters
    ----------
    name : str
        Name of a file.

    Returns
    -------
    str or None
        None for any other file.
    """
    found = _LEFTOVER.fullmatch(name)
    return found[1] if found and found[2] == _PARTIAL else None


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes have left of a folder, or of all in a folder.

    Where the system cannot tell whether the process lives, leftovers are removed after an hour.

    Parameters
    ----------
    folder : Path
        The folder of the folders.
    name : str, optional
        Name of the folder that was to be replaced.
    """

    def removable(other: str) -> bool:
        found = _LEFTOVER.fullmatch(other)
        if not found or name not in {None, found[1]}:
            return False
        return found[2] == _PARTIAL or (folder / found[1]).is_dir()

    for path in folder.iterdir() if folder.is_dir() else ():
        if removable(path.name) and path.is_dir() and not path.is_symlink():
            with suppress(OSError), _held(path) as certainly:
                if certainly:
                    shutil.rmtree(path, ignore_errors=True)
    remove_stale(folder, removable)


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Lock a folder until the process ends; yield False where the system has no such locks.

    Raises `BlockingIOError` if another process has locked it.
    """
    try:
        import fcntl
    except ImportError:
        yield False
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        certainly = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if isinstance(error, BlockingIOError):
                raise
            certainly = False
        yield certainly
    finally:
        os.close(handle)


def age_of(path: Path) -> float:
    """Return the seconds since a file or folder was changed, by the clock of its file system.

    That of this computer may be another, or may have been set since.

    Parameters
    ----------
    path : Path
        The file or folder, of which a link is not followed.

    Returns
    -------
    float
        0 if it does not exist.

    Raises
    ------
    OSError
        Its folder cannot be written.
    """
    probe = sibling(path.with_name(leftover_of(path.name) or path.name))
    try:
        probe.touch(exist_ok=False)
        return probe.stat().st_mtime - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def remove_stale(folder: Path, owned: Callable[[str], bool]) -> None:
    """Remove leftovers of killed processes from a folder: what has not changed for an hour.

    What cannot be removed, such as on a disk that can only be read, is left.

    Parameters
    ----------
    folder : Path
        The folder; it need not exist, and what it links to is left alone.
    owned : callable
        Takes a name and returns whether it is that of a temporary file or folder of ours.
    """
    for path in folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ():
        with suppress(OSError):  # also where its owner, or another process, removes it just now
            if owned(path.name) and age_of(path) > _STALE_SECONDS:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
