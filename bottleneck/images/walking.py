"""Walk through folders of images, whatever is in them."""

import os
import unicodedata
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from bottleneck.images.kinds import is_image, shown_path
from bottleneck.records import RejectedImage
from bottleneck.sources import is_remote, is_web, list_remote, location

__all__ = ["Told", "Walked", "existing", "is_junk", "junk_in", "walk", "walk_remote"]

_JUNK = frozenset(
    {"__macosx", "__pycache__", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
)
"""Folders that programs and systems make; so are those that begin with a dot."""

Told = tuple[str | None, str | None, str | None]
"""Label, split and group of an image."""


@dataclass
class Walked:
    """The files in a folder and below; each is in exactly one of the lists, or in a listed folder.

    Attributes
    ----------
    images : list of Path
        Files that look like images.
    ignored : list of str
        Other files; and hidden files and folders, the latter with a slash at the end.
    rejected : list of RejectedImage
        Links and folders that are not followed, with the reasons.
    folders : list of Path
        The folders that were read.
    at : list of str
        Where each image is read from, if that is not its path: of archives that were read as if
        their folders were one, their names are in these paths, and not in `images`; and URLs are as
        their server has them.
    told : list of (str or None, str or None, str or None)
        Label, split and group of each image, where these are told by more than its folders.
    by_column : bool
        Whether the groups are those of the column that was asked for.
    notes : list of str
        How the source was read, where it is not obvious.
    """

    images: list[Path] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    rejected: list[RejectedImage] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    at: list[str] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    by_column: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        """Where each image is read from."""
        return self.at or [image.as_posix() for image in self.images]


def is_junk(path: Path) -> bool:
    """Return whether a file or folder is hidden, or made by a program for itself.

    Parameters
    ----------
    path : Path
        Only its name counts.

    Returns
    -------
    bool
    """
    return path.name.startswith(".") or path.name.casefold() in _JUNK


def junk_in(name: Path) -> str:
    """Return the first hidden part of the way to a file.

    Parameters
    ----------
    name : Path
        The file, relative to what is searched.

    Returns
    -------
    str
        With a slash at the end if it is a folder; "" if nothing is hidden.
    """
    for way in (*reversed(name.parents), name):
        if way.name and is_junk(way):
            return way.as_posix() + "/" * (way != name)
    return ""


def walk_remote(folder: Path) -> Walked:
    """Find the images below a folder behind a URL, by their names.

    Parameters
    ----------
    folder : Path
        An `Address`.

    Returns
    -------
    Walked
        In order.

    Raises
    ------
    MissingExtraError, PathMissingError, DataError
        As for `list_remote`.
    """
    found, folders, hidden = Walked(), {folder: None}, dict[str, None]()
    web = is_web(folder)
    for url in list_remote(str(folder)):
        if web and "?" in url:
            continue  # a page's links to the same list in another order
        path = location(url)
        inner = path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)
        inner = Path(unquote(str(inner))) if web else inner
        if junk := junk_in(inner):
            hidden[f"{folder.as_posix()}/{junk}"] = None
        elif is_image(path, content=False):
            found.images.append(folder / inner)
            found.at.append(url)
            folders |= dict.fromkeys(folder / each for each in inner.parents)
        else:
            found.ignored.append(url)
    found.ignored += hidden
    found.folders = list(folders)
    return found


def walk(folder: Path) -> Walked:
    """Find the images below a folder.

    Anything with an image's ending is returned, so that a folder named ``x.jpg`` or a dangling link
    is reported as a bad image. Links to folders are followed after everything else, unless they
    lead to a folder that they are in or that is read in the same place already.

    Parameters
    ----------
    folder : Path
        The folder.

    Returns
    -------
    Walked
        In order, within each folder by name.
    """
    found, seen, links = Walked(), dict[_Place, Path](), deque[Path]()
    waiting = [folder]
    while waiting or links:
        following = not waiting
        path = links.popleft() if following else waiting.pop()
        inside = path != folder
        if inside and is_junk(path):
            passed_over = _is_folder(path) and not path.is_symlink()
            found.ignored.append(path.as_posix() + "/" * passed_over)
        elif inside and is_image(path):
            found.images.append(path)
        elif not _is_folder(path):
            if path.is_symlink() and not os.path.exists(path):  # noqa: PTH110 - as below
                found.rejected.append(_not_followed(path, "a link to nothing"))
            else:
                found.ignored.append(path.as_posix())
        elif inside and path.is_symlink() and not following:
            links.append(path)
        else:
            try:
                inner = _entries(path, folder, seen)
            except OSError as error:
                found.rejected.append(_not_followed(path, error.strerror or str(error)))
            else:
                found.folders.append(path)
                waiting += reversed(inner)
    return found


_Place = tuple[tuple[str, ...], int, int]
"""The first two folders on the way to a folder, and its device and number there."""


def _entries(path: Path, root: Path, seen: dict[_Place, Path]) -> list[Path]:
    """Return what is in a folder, sorted; or raise an `OSError` if it must not be followed.

    A class may have the same subfolder as another, but each is read only once there: without this,
    few links could lead to the same images in millions of ways.
    """
    found = path.stat()
    if path != root and path.is_symlink():
        target, here = path.resolve(), path.parent.resolve()
        if target == here or target in here.parents:
            raise OSError("a link to a folder that it is in")
    way = path.relative_to(root).parts[:2]
    for length in range(len(way) + 1):
        before = seen.get((way[:length], found.st_dev, found.st_ino))
        if before:
            raise OSError(f"the same folder as {shown_path(before.as_posix())}")
    seen[way, found.st_dev, found.st_ino] = path
    return sorted(path.iterdir())


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - the method raises where it may not look


def _not_followed(path: Path, reason: str) -> RejectedImage:
    return RejectedImage(shown_path(path.as_posix()), reason)


def existing(path: Path, known: dict[Path, dict[str, str]] | None = None) -> Path:
    """Return the path of a file whose name may have another Unicode form.

    Parameters
    ----------
    path : Path
        A path as somebody typed it: ``é`` is one character on one system, and two on another.
    known : dict, optional
        Names in folders by their form NFC, which is added to: for many paths.

    Returns
    -------
    Path
        The path as it is on the disk; `path` if there is none.
    """
    if path.as_posix().isascii() or os.path.lexists(path) or is_remote(path):
        return path
    known, found = {} if known is None else known, Path(path.anchor)
    for part in path.relative_to(path.anchor).parts:
        if found not in known:
            names = os.listdir(found) if _is_folder(found) else []  # noqa: PTH208 - names only
            known[found] = {unicodedata.normalize("NFC", name): name for name in names}
        if os.path.lexists(found / part):
            found /= part
        else:
            found /= known[found].get(unicodedata.normalize("NFC", part), part)
    return found
