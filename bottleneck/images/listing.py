"""List the images of folders, of archives, and of several archives read as one."""

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from bottleneck.errors import DataError, PathMissingError, counted
from bottleneck.images.keyed import SIDECARS, Sidecars
from bottleneck.images.kinds import is_image, shown_path
from bottleneck.images.rows import add_rows
from bottleneck.images.splits import split_of
from bottleneck.images.walking import Walked, junk_in, walk, walk_remote
from bottleneck.records import RejectedImage
from bottleneck.sources import (
    OBJECTS,
    Container,
    Rows,
    container_at,
    is_container,
    is_remote,
    location,
    suffix_of,
)

__all__ = ["expanded", "is_listed", "is_pattern", "is_table", "listed", "name_of"]

_TABLES = frozenset({".csv", ".tsv", ".txt", ".jsonl"})
_OF_DATASETS = {"dataset_dict.json", "dataset_info.json", "state.json"}
"""What Hugging Face's datasets write beside their tables."""
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
_NUMBER = re.compile(r"[-_.]?[0-9]+(?:-of-[0-9]+)?$")
_MOST_SHARDS = 100_000


def is_table(path: Path) -> bool:
    """Return whether a path is that of a table of images, by its ending.

    Parameters
    ----------
    path : Path
        A file, or a URL.

    Returns
    -------
    bool
    """
    return path.suffix.lower() in _TABLES and (is_remote(path) or path.is_file())


def is_pattern(path: Path) -> bool:
    """Return whether a path names several archives, as ``shards-{000..099}.tar`` does.

    Parameters
    ----------
    path : Path
        A path that need not exist.

    Returns
    -------
    bool
    """
    return bool(suffix_of(path) and _BRACES.search(str(path)))


def is_listed(path: Path) -> bool:
    """Return whether a path, which is no folder on this machine, has images in it.

    Parameters
    ----------
    path : Path
        A path.

    Returns
    -------
    bool
        True for archives, patterns of them, and folders behind URLs.
    """
    file = is_image(path, content=False) or is_table(path) or str(path).startswith(OBJECTS)
    folder = is_remote(path) and not file
    return folder or is_pattern(path) or is_container(path)


def name_of(root: Path) -> str:
    """Return the name of an image set after its source.

    Parameters
    ----------
    root : Path
        A folder, an archive or a pattern.

    Returns
    -------
    str
    """
    full = root.resolve()
    if full.is_dir() or not suffix_of(full):
        return full.name
    name = _BRACES.sub("", full.name[: -len(suffix_of(full))]).strip("-_. ")
    return name if any(map(str.isalpha, name)) else full.parent.name or name


def listed(root: Path, group_by: str | None = None) -> Walked:
    """List the images of a source.

    Parameters
    ----------
    root : Path
        A folder; an archive; a pattern of archives; or a folder that has archives and no images,
        which are then read as if their folders were one, in the folder that they are in.
    group_by : str, optional
        The column of tables with the groups, see `add_rows`.

    Returns
    -------
    Walked

    Raises
    ------
    PathMissingError
        It does not exist.
    DataError
        The only archive is damaged.
    """
    pattern = is_pattern(root)
    if root.is_dir() or (is_remote(root) and not pattern and not suffix_of(root)):
        walked = walk_remote(root) if is_remote(root) else walk(root)
        return walked if walked.images else _of_containers(walked, root, group_by)
    if is_container(root) and not (pattern and not root.exists()):
        return _Listing(root, [root], group_by).walked()
    if pattern:
        return _Listing(root, expanded(root), group_by).walked()
    raise PathMissingError(
        f"no folder {str(root)!r}; give a folder with one subfolder of images per class, an "
        f"archive of such folders, or a CSV table, with `data`"
    )


def _of_containers(walked: Walked, root: Path, group_by: str | None) -> Walked:
    """Return the images of the archives in a folder, if there are any."""
    places = [place for place in map(location, walked.ignored) if is_container(place)]
    if not places:
        return walked
    found = _Listing(root, places, group_by).walked()
    found.notes.append(
        f"{counted(len(places), 'archive or table', 'archives or tables')} in {root.as_posix()!r} "
        f"read as one"
    )
    kept = {place.as_posix() for place in places}
    others = [path for path in walked.ignored if path not in kept]
    found.ignored += [path for path in others if Path(path).name not in _OF_DATASETS]
    found.rejected += walked.rejected
    found.folders = list(dict.fromkeys([*walked.folders, *found.folders]))
    return found


def expanded(pattern: Path) -> list[Path]:
    """Return the archives of a pattern.

    Parameters
    ----------
    pattern : Path
        As ``shards-{000..099}.tar``, or with names, as ``{train,val}.tar``.

    Returns
    -------
    list of Path

    Raises
    ------
    PathMissingError
        Some of them do not exist, or the pattern is none.
    """
    text = str(pattern)
    pieces = [[piece] for piece in _BRACES.split(text)]
    pieces[1::2] = [_alternatives(piece[0]) for piece in pieces[1::2]]
    count = 1
    for piece in pieces:
        count *= len(piece)
    if not 0 < count <= _MOST_SHARDS:
        raise PathMissingError(
            f"the pattern {text!r} names {count} archives, expected 1 to {_MOST_SHARDS:,}, as "
            f"shards-{{000..099}}.tar does"
        )
    paths = [location("".join(each)) for each in product(*pieces)]
    missing = [path for path in paths if not is_remote(path) and not path.is_file()]
    if missing:
        raise PathMissingError(
            f"{len(missing)} of {counted(count, 'archive')} that {text!r} names cannot be found, "
            f"first {str(missing[0])!r}; correct the pattern, which is relative to the working "
            f"directory"
        )
    return paths


def _alternatives(text: str) -> list[str]:
    found = _RANGE.fullmatch(text)
    if not found:
        return [each for each in text.split(",") if each]
    first, last = int(found[1]), int(found[2])
    if last - first > _MOST_SHARDS:
        return []
    return [f"{number:0{len(found[1])}d}" for number in range(first, last + 1)]


class _Listing:
    """The images of archives, as if their folders were one.

    Parameters
    ----------
    root : Path
        What stands for the folder that all are in.
    places : sequence of Path
        The archives.
    group_by : str or None
        The column of tables with the groups.
    """

    def __init__(self, root: Path, places: list[Path], group_by: str | None) -> None:
        self._group_by, self._root, self._places, self._found = group_by, root, places, Walked()
        self._sidecars = Sidecars()
        self._rows: list[tuple[Path, str, Rows]] = []
        self._folders: dict[Path, None] = {root: None}

    def walked(self) -> Walked:
        """Return what is in them."""
        for place, top in zip(self._places, self._tops(), strict=True):
            try:
                container = container_at(place, fresh=True)
            except DataError as error:
                if len(self._places) == 1:
                    raise
                text = str(error).removeprefix(f"{str(place)!r} ")
                reason = text.removeprefix("cannot be read: ")
                self._found.rejected.append(RejectedImage(place.as_posix(), reason))
            else:
                self._add(place, top, container)
        self._found.folders = list(self._folders)
        self._sidecars.tell(self._root, self._found)
        add_rows(self._root, self._rows, self._found, self._group_by)
        return self._found

    def _tops(self) -> Iterator[Path]:
        """Yield what stands for the folder in each archive, with splits that the names tell."""
        words = [_NUMBER.sub("", place.name[: -len(suffix_of(place))]) for place in self._places]
        splits = [split_of(word) for word in words]
        told = len(set(splits)) > 1 and None not in splits
        several = len(self._places) > 1
        for place, split in zip(self._places, splits, strict=True):
            beside = several and place.is_relative_to(self._root)
            inner = place.parent.relative_to(self._root) if beside else Path()
            yield self._root / inner / (split or "") if told else self._root / inner

    def _add(self, place: Path, top: Path, container: Container) -> None:
        found, text = self._found, place.as_posix()
        if isinstance(container, Rows):
            self._rows.append((top, text, container))
            return
        for name, reason in container.refused():
            path = f"{text}/{name}" if name else text
            found.rejected.append(RejectedImage(shown_path(path), reason))
        looks, hidden = not is_remote(place), dict[str, None]()
        for name in container.names():
            inner, path = Path(name), f"{text}/{name}"
            if junk := junk_in(inner):
                hidden[f"{text}/{junk}"] = None
            elif inner.suffix.lower() in SIDECARS:
                self._sidecars.add(path)
            elif is_image(location(path), content=looks):
                found.images.append(top / inner)
                found.at.append(path)
                self._add_folders(top / inner)
            else:
                found.ignored.append(path)
        found.ignored += hidden

    def _add_folders(self, image: Path) -> None:
        for folder in image.parents:
            if folder in self._folders:
                return
            self._folders[folder] = None
