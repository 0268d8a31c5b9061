"""The layout of an image folder: which of its folders are classes, and which are splits."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from bottleneck.errors import DataError, PathMissingError, UsageError, some_of
from bottleneck.images.groups import grouped
from bottleneck.images.items import SPLITS, Found, ImageItem
from bottleneck.images.kinds import IMAGE_SUFFIXES, shown_path
from bottleneck.images.listing import is_listed, is_pattern, is_table, listed
from bottleneck.images.metadata import items_by_metadata
from bottleneck.images.splits import split_in, split_of
from bottleneck.images.tables import read_table
from bottleneck.images.walking import Walked, existing
from bottleneck.names import normal_name
from bottleneck.records import RejectedImage
from bottleneck.sources import exists

__all__ = ["find_files", "find_paths"]

_USUAL = {"train", "val", "valid", "validation", "test"}
_ALIKE = 2
"""Number of subfolders that two classes seldom have in common."""


_Told = dict[Path, tuple[str | None, str | None]]
"""Label and split of the images directly in a folder, by folder."""


@dataclass(frozen=True)
class _Folder:
    """A folder, and those in it and below that have images directly in them."""

    path: Path
    full: list[Path]

    @cached_property
    def loose(self) -> bool:
        """Whether images are directly in the folder."""
        return self.path in self.full

    @cached_property
    def folders(self) -> dict[str, "_Folder"]:
        """The subfolders with images, by name, as they come."""
        depth, found = len(self.path.parts), dict[str, _Folder]()
        for each in self.full:
            if each != self.path:
                name = each.parts[depth]
                found.setdefault(name, _Folder(self.path / name, [])).full.append(each)
        return found

    @property
    def names(self) -> frozenset[str]:
        """The names of the subfolders with images, as people read them."""
        return frozenset(normal_name(name).casefold() for name in self.folders)

    @cached_property
    def split_words(self) -> dict[str, str]:
        """The splits of the subfolders whose whole name is a word for one, by name."""
        return {name: split for name in self.folders if (split := split_of(name))}

    @property
    def splits(self) -> dict[str, str]:
        """The splits of the subfolders with images, by name; nothing unless all have one.

        Where all have a word for a split and there are several splits, it may be one of several
        words, such as in ``seg_train`` and ``seg_test``.
        """
        if len(self.split_words) == len(self.folders):
            return self.split_words
        found = {name: split for name in self.folders if (split := split_in(name))}
        several = len(set(found.values())) > 1 and len(found) == len(self.folders)
        return found if several and self.has_two_levels else {}

    @property
    def has_two_levels(self) -> bool:
        """Whether a subfolder has subfolders with images."""
        return any(each.folders for each in self.folders.values())

    def labelled(self, split: str | None = None) -> _Told:
        """Return label and split of the images in class folders."""
        return {
            each: (normal_name(name) or name, split)
            for name, folder in self.folders.items()
            for each in folder.full
        }


def find_files(root: Path, *, nested: bool = False, group_by: str | None = None) -> Found:
    """Read the layout of an image folder, see `ImageSet.from_folder`.

    Parameters
    ----------
    root : Path
        The folder, or what `listed` reads like one.
    nested : bool
        Whether each folder is a class, whatever is in it.
    group_by : str, optional
        The column of tables with the groups, if it is not ``group``; or a regular expression, see
        `grouped`.

    Returns
    -------
    Found
        Images, other files and notes.

    Raises
    ------
    PathMissingError
        The folder does not exist.
    DataError
        There are no images, or the layout has no class folders, or is ambiguous.
    UsageError
        A row of a table has no split, or another word, where others have one; or see `grouped`.
    """
    walked = listed(root, group_by)
    found = _found(root, walked, nested=nested)
    return grouped(found, None if walked.by_column else group_by, root)


def _found(root: Path, walked: Walked, *, nested: bool) -> Found:
    notes = walked.notes
    if not walked.images:
        strange = [f"{each.path} ({each.reason})" for each in walked.rejected]
        also = f" that can be read, but {some_of(strange, most=3)}" if strange else ""
        raise DataError(
            f"no images in {str(root)!r}{also}; expected {str(root / 'CLASS' / 'IMAGE')!r} with "
            f"one of the endings {' '.join(sorted(IMAGE_SUFFIXES))}"
        )
    items = _told_otherwise(root, walked, nested=nested)
    if items:
        return Found(items, walked.ignored, walked.rejected, walked.notes)
    places = [image.parent for image in walked.images]
    top = _Folder(root, list(dict.fromkeys(places)))
    folder = top if nested else _unwrapped(top, notes)
    parents = [folder.path]
    if not folder.folders:
        told: _Told = {folder.path: (None, None)}
    elif nested:
        told = folder.labelled()
    elif folder.splits:
        told = _split_folders(folder, parents, notes)
        parents += [each for each in walked.folders if each.parent == folder.path]
    else:
        told = _class_folders(folder, parents, notes)
    ignored: list[str] = []
    for image, path, place in zip(walked.images, walked.paths, places, strict=True):
        if facts := told.get(place):
            items.append(ImageItem(path, "", *facts))
        elif image.is_dir():
            reason = "a folder with the ending of an image"
            walked.rejected.append(RejectedImage(shown_path(path), reason))
        else:
            ignored.append(path)
    way = [each for each in (folder.path, *folder.path.parents) if each.is_relative_to(root)]
    empty = _without_images(walked, top.full, {*parents, *way})
    return Found(items, ignored + walked.ignored + empty, walked.rejected, notes)


def _told_otherwise(root: Path, walked: Walked, *, nested: bool) -> list[ImageItem]:
    """Return the images, if more than their folders tells their labels."""
    if walked.told:
        both = list(zip(walked.paths, walked.told, strict=True))
        for path, (_, split, _) in both:
            if split is not None and split not in SPLITS:
                raise UsageError(
                    f"{path!r} has {f'the split {split!r}' if split else 'no split'}, expected "
                    f"train, val or test; correct it, with a split in every row or in none"
                )
        return [ImageItem(path, "", *facts[:2], group=facts[2]) for path, facts in both]
    return [] if nested else items_by_metadata(root, walked) or []


def _without_images(walked: Walked, places: list[Path], parents: set[Path]) -> list[str]:
    """Return the folders that are classes or splits by their place, but have no images."""
    full = {*places}.union(*(place.parents for place in places))
    place = {folder.parent for folder in walked.folders}
    return [
        f"{folder.as_posix()}/"
        for folder in walked.folders
        if folder.parent in parents and folder not in full
        if not (folder in parents and folder in place)  # then those in it are named
    ]


def _unwrapped(top: _Folder, notes: list[str]) -> _Folder:
    """Return the folder with the splits, if it is the only one in the given one.

    Raises
    ------
    DataError
        The only folder has several that may be the classes.
    """
    folder = top
    while len(folder.folders) == 1 and not folder.splits and (folder is top or not folder.loose):
        (folder,) = folder.folders.values()
    if folder is top or folder.loose or not folder.folders:
        return top
    if folder.splits and folder.has_two_levels:
        notes.append(f"the split folders are in {folder.path.as_posix()}")
        return folder
    if folder.splits:
        return top
    (only,) = top.folders
    raise DataError(
        f"{str(top.path)!r} has only the folder {only!r}; if {some_of(folder.folders)} in "
        f"{str(folder.path)!r} are classes or splits, give `data={folder.path}`"
    )


def _split_folders(folder: _Folder, parents: list[Path], notes: list[str]) -> _Told:
    """Read ``DATA/SPLIT/CLASS``."""
    if not folder.has_two_levels:
        raise DataError(
            f"{str(folder.path)!r} has the splits {', '.join(folder.folders)} but no class "
            f"folders in them; expected "
            f"{str(folder.path / next(iter(folder.folders)) / 'CLASS' / 'IMAGE')!r}"
        )
    told: _Told = {}
    for name, split in folder.splits.items():
        own = folder.folders[name]
        while len(own.folders) == 1 and split_in(next(iter(own.folders))) == split:
            (own,) = own.folders.values()  # such as seg_train/seg_train
        if own.folders:
            _check_classes(own, notes)
        else:
            notes.append(
                f"the split folder {name} has no class folders, so its images are left out; "
                f"'bottleneck predict' takes images without classes"
            )
        told |= own.labelled(split)
        parents.append(own.path)
    _note_splits(folder.splits, notes)
    return told


def _note_splits(splits: Mapping[str, str], notes: list[str], where: str = "") -> None:
    if odd := {name: split for name, split in splits.items() if where or name not in _USUAL}:
        listed = ", ".join(f"{name} is {split}" for name, split in odd.items())
        notes.append(f"the folders{where} were read as splits: {listed}")


def _class_folders(folder: _Folder, parents: list[Path], notes: list[str]) -> _Told:
    """Read ``DATA/CLASS``, or ``DATA/CLASS/SPLIT`` where all classes have split folders."""
    _check_mixed(folder, notes)
    inner = {
        name: own.splits
        for name, own in folder.folders.items()
        if own.splits and not own.loose and all(map(split_of, own.folders))
    }
    if not inner:
        _check_classes(folder, notes)
        return folder.labelled()
    if others := [name for name in folder.folders if name not in inner]:
        own = folder.folders[others[0]]
        beside = [name for name in own.folders if not split_of(name)]
        what = f"has {', '.join(beside) or 'images'} beside them" if own.split_words else "has none"
        raise DataError(
            f"{str(folder.path / next(iter(inner)))!r} has split folders, but {str(own.path)!r} "
            f"{what}; give every class split folders and nothing else, or give `nested=True` if "
            f"all folders in class folders are parts of their class"
        )
    told: _Told = {}
    for name, splits in inner.items():
        parents.append(folder.path / name)
        for part, split in splits.items():
            full = folder.folders[name].folders[part].full
            told |= dict.fromkeys(full, (normal_name(name) or name, split))
    splits = {part: split for own in inner.values() for part, split in own.items()}
    _note_splits(splits, notes, " in class folders")
    return told


def _check_mixed(folder: _Folder, notes: list[str]) -> None:
    """Raise a `DataError`, or add a note, if class folders have the names of splits."""
    words = folder.split_words
    other = next(name for name in folder.folders if name not in words)
    mixed = [name for name in words if folder.folders[name].folders]
    if mixed or len(set(words.values())) > 1:
        named = mixed[:1] or list(words)
        raise DataError(
            f"{str(folder.path)!r} mixes the split folder{'s' * (len(named) > 1)} "
            f"{' and '.join(map(repr, named))} with the folder {other!r}; move {other!r} "
            f"elsewhere, or give `nested=True` if all folders are classes"
        )
    notes += [f"the folder {name} was read as a class, not as a split" for name in words]


def _check_classes(folder: _Folder, notes: list[str]) -> None:
    """Raise a `DataError`, or add a note, if the folders in a folder do not look like classes."""
    classes = folder.folders
    sets = [own.names for own in classes.values()]
    if len(classes) == 1 or any(own.loose for own in classes.values()):
        return
    common = frozenset.intersection(*sets)
    if len(common) < _ALIKE:
        return
    outer, inside = some_of(classes, most=4), some_of(sorted(common), most=4)
    if len(set(sets)) == 1:
        raise DataError(
            f"the folders {outer} of {str(folder.path)!r} all have the same subfolders, {inside}, "
            f"so these look like the classes; rename {outer} to train, val or test if they are "
            f"splits, or give `nested=True` if they are the classes"
        )
    notes.append(
        f"the folders {outer} were read as classes, but have the same subfolders, such as "
        f"{inside}; rename them to train, val or test if they are splits"
    )


def find_paths(paths: Iterable[Path], *, exact: bool = False) -> Found:
    """Find the images in files, folders and tables, without splits.

    Parameters
    ----------
    paths : iterable of Path
        Files, folders, or tables by their ending.
    exact : bool
        Whether every file is an image, and paths stay as they are.

    Returns
    -------
    Found
        A file that is given twice is in it twice.

    Raises
    ------
    PathMissingError
        A path does not exist.
    UsageError, DataError
        A table has no column ``path``, an empty cell, or no rows.
    """
    found = Found()
    for path in paths if exact else map(existing, paths):
        if not exists(path) and not is_pattern(path):
            raise PathMissingError(f"no file or folder {str(path)!r}; give images or folders")
        if path.is_dir() or (not exact and is_listed(path)):
            walked = listed(path)
            found.items.extend(map(ImageItem, walked.paths))
            found.ignored.extend(walked.ignored)
            found.rejected.extend(walked.rejected)
        elif not exact and is_table(path):
            found.items.extend(read_table(path, labels=False).items)
        else:
            found.items.append(ImageItem(path.as_posix()))
    return replace(found, ignored=list(dict.fromkeys(found.ignored)))
