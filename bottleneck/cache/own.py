"""What in a cache folder is the cache's own: by its name and by its content."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from bottleneck.cache.hdf5 import errors_of
from bottleneck.cache.parts import PART_NAME, Part, part_files
from bottleneck.errors import CacheError, DamagedError
from bottleneck.files import sibling
from bottleneck.folders import leftover_of
from bottleneck.inputs import open_regular, read_regular

__all__ = [
    "INDEX",
    "INFO_LOCK",
    "PARTS_LOCK",
    "added_parts",
    "is_bank",
    "is_linked",
    "is_part",
    "is_partial",
    "is_run",
    "open_part",
    "own_files",
]

_BANK_NAME = re.compile(r".*-([0-9a-f]{12})", re.DOTALL)
_RUN_NAME = re.compile(r"[0-9]{8}T[0-9]{12}-[0-9a-f]{4}\.json")
_INFO = "bank.json"
INDEX = "parts.json"
"""What `bottleneck.cache.index_file` writes."""
INFO_LOCK, PARTS_LOCK = ".bank.json.held", ".compact.held"
"""Locks of ``bank.json`` and of the removal of parts."""
_OLD_LOCKS = (".bank.json.lock", ".compact.lock")
"""Of earlier versions."""
_OTHERS = {
    *("features.h5", INDEX),
    *(INFO_LOCK, PARTS_LOCK, *_OLD_LOCKS),
    *(f"{name}.takeover" for name in (INFO_LOCK, PARTS_LOCK)),
}
_HEAD_BYTES = 2**16
"""Enough for the attributes of a part and the first keys of a record."""


def is_bank(folder: Path) -> bool:
    """Return whether a folder is a bank: by its name, and by the content of one of its files.

    Parameters
    ----------
    folder : Path
        A path, which need not exist; a link to a bank is one.

    Returns
    -------
    bool
    """
    named = _BANK_NAME.fullmatch(folder.name)
    if not named or not folder.is_dir():
        return False
    described = _bears(folder / _INFO, f'"fingerprint": "{named[1]}')
    return described or any(map(is_part, part_files(folder / "parts")))


def is_run(path: Path) -> bool:
    """Return whether a file is the record of an extraction, intact or damaged.

    Parameters
    ----------
    path : Path
        A path in ``runs/``.

    Returns
    -------
    bool
    """
    if not _RUN_NAME.fullmatch(path.name):
        return False
    return _bears(path, '"schema": ', '"image_set') or not _is_object(path)


def _is_object(path: Path) -> bool:
    """Return whether a file is an intact JSON object with something in it."""
    try:
        content = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and bool(content)


def open_part(path: Path) -> Part:
    """Open a part.

    Parameters
    ----------
    path : Path
        A path from `bottleneck.cache.parts.part_files`.

    Returns
    -------
    Part

    Raises
    ------
    CacheError
        As for `Part.open`; or the cache did not write the file.
    """
    try:
        return Part.open(path)
    except DamagedError as error:
        if is_part(path):
            raise
        raise CacheError(
            f"{str(path)!r} has the name of a part, but the cache did not write it; move it to "
            f"another folder"
        ) from error


def added_parts(bank: Path, seen: set[str], *, elsewhere: bool = False) -> Iterator[Part]:
    """Yield the parts of a bank that were added since it was last looked at.

    Parameters
    ----------
    bank : Path
        The folder of the bank, which need not exist.
    seen : set of str
        Names of the parts that are known; each part is added to it.
    elsewhere : bool
        Whether other computers may have added some. Then a file is made for a moment, without which
        a network file system may show the folder as it was some time ago.

    Yields
    ------
    Part
        One that another process has just replaced is passed over.

    Raises
    ------
    CacheError
        A part cannot be read.
    """
    folder = bank / "parts"
    if elsewhere and folder.is_dir():
        probe = sibling(folder / _INFO)
        with errors_of(folder):
            probe.touch()
            probe.unlink(missing_ok=True)
    for path in part_files(folder):
        if path.name not in seen:
            with suppress(FileNotFoundError):
                yield open_part(path)
            seen.add(path.name)


def is_partial(name: str) -> bool:
    """Return whether a file of a bank is an unfinished one, by its name.

    Parameters
    ----------
    name : str
        Name of the file.

    Returns
    -------
    bool
    """
    finished = leftover_of(name) or ""
    return bool(PART_NAME.fullmatch(finished)) or finished in {_INFO, *_OTHERS}


def is_part(path: Path) -> bool:
    """Return whether a file with a part's name is a part, intact or damaged.

    Parameters
    ----------
    path : Path
        A path from `bottleneck.cache.parts.part_files`.

    Returns
    -------
    bool
    """
    return _bears(path, "fingerprint", "rows_per_block")


def _bears(path: Path, *texts: str) -> bool:
    """Return whether the beginning of a file has one of the texts that we write there.

    So does a damaged file, unless the damage is there; one that a crash has blanked has no text.
    Who cannot read a file gets its error when the file is used.
    """
    try:
        if not path.is_file():
            return False
        with open_regular(path) as file:
            content = file.read(_HEAD_BYTES)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return not content.strip(b"\0") or any(text.encode() in content for text in texts)


def own_files(bank: Path) -> Iterator[Path]:
    """Yield the files of a bank that the cache wrote, ``bank.json`` last.

    Parameters
    ----------
    bank : Path
        The folder of a bank.

    Yields
    ------
    Path
        Also links with the name of such a file or folder.
    """
    parts = bank / "parts"
    yield from _named(bank, lambda name: is_partial(name) or name in _OTHERS)
    if parts.is_symlink():
        yield parts
    else:
        yield from _named(parts, is_partial)
        yield from (path for path in part_files(parts) if path.is_symlink() or is_part(path))
    yield from _named(bank, lambda name: name == _INFO)


def _named(folder: Path, wanted: Callable[[str], bool]) -> list[Path]:
    """Return the files and links in a folder with a name of ours, but no folders."""
    if not folder.is_dir():
        return []
    found = sorted(path for path in folder.iterdir() if wanted(path.name))
    return [path for path in found if path.is_symlink() or not path.is_dir()]


def is_linked(root: Path, path: Path) -> bool:
    """Return whether a link leads from a cache folder to a path, which is then somewhere else.

    Parameters
    ----------
    root : Path
        The cache folder, which may itself be a link.
    path : Path
        A path in it.

    Returns
    -------
    bool
        Whether a folder between the two is a link; the path itself may be one.
    """
    above = [root / each for each in path.relative_to(root).parents if each.parts]
    return any(each.is_symlink() for each in above)
