"""What an image set replaces: the set of the same name that the cache had before."""

import os
from dataclasses import dataclass
from pathlib import Path

from bottleneck.errors import BadImageError, DataError, UsageError
from bottleneck.images.digests import digests_of_file
from bottleneck.images.find import ImageItem
from bottleneck.images.sets import ImageSet
from bottleneck.inputs import open_regular

__all__ = ["Replacement", "check_replaceable", "replacement_of"]

_HEADER = b'"path","digest"'


@dataclass(frozen=True)
class Replacement:
    """How an image set differs from the one of the same name in the cache.

    Attributes
    ----------
    before, gone : int
        Number of different images in the old set, and of those that the new one lacks.
    folders : tuple of str
        The folders in which the paths of the old set begin, and those of the new one.
    """

    before: int
    gone: int
    folders: tuple[str, str]

    @property
    def is_other(self) -> bool:
        """Whether the new set is another one, rather than a newer version of the old one."""
        old, new = self.folders
        return self.gone > self.before // 2 or (self.gone > 0 and old != new)


def check_replaceable(file: Path) -> None:
    """Check that an image set may be written to a file.

    Parameters
    ----------
    file : Path
        The file in ``sets/``, which need not exist.

    Raises
    ------
    UsageError
        There is a file that is no image set.
    """
    try:
        with open_regular(file) as stream:
            beginning = stream.read(2**10).strip(b"\0")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:
        beginning = b"?"
    if beginning and not beginning.startswith(_HEADER):
        raise UsageError(
            f"{str(file)!r} is no image set that 'bottleneck extract' wrote; move it to another "
            f"folder, or give another name with `image_set`"
        )


def replacement_of(file: Path, images: ImageSet) -> Replacement | None:
    """Compare an image set with the one that it is to replace.

    Parameters
    ----------
    file : Path
        The file of the old set, which need not exist.
    images : ImageSet
        The new set.

    Returns
    -------
    Replacement or None
        None if there is no old set that can be read.
    """
    try:
        old = ImageSet.read_csv(file)
    except DataError:
        return None
    before = {item.digest for item in old.items}
    gone = before.difference(item.digest for item in (*images.items, *images.left_out))
    paths = {item.path for item in images.items}
    for item in old.items:
        if item.digest in gone and item.path in paths and _is_at(item):
            gone.discard(item.digest)
    return Replacement(len(before), len(gone), (_folder_of(old), _folder_of(images)))


def _is_at(item: ImageItem) -> bool:
    """Return whether a file has its former bytes, and only another digest in this version."""
    try:
        return item.digest in digests_of_file(Path(item.path))
    except BadImageError:
        return False


def _folder_of(images: ImageSet) -> str:
    """Return the folder in which all paths of a set begin, as they are given."""
    try:
        return os.path.commonpath([item.path for item in images.items])
    except ValueError:  # some are absolute, or on another drive
        return ""
