"""Find images with their classes and splits, and compute their digests."""

import csv
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, TypeAdapter, ValidationError

from bottleneck.errors import BadImageError, DataError, UsageError
from bottleneck.images.digests import MAX_BYTES, digest_file, read_checked
from bottleneck.images.kinds import IMAGE_SUFFIXES, check_name, is_image
from bottleneck.records import Digest, RejectedImage, record, sentence_of

__all__ = [
    "SPLITS",
    "ImageItem",
    "digest_all",
    "find_files",
    "in_threads",
    "read_file",
    "read_manifest",
    "walk",
]

SPLITS = ("train", "val", "test")
_SPLIT_OF_NAME = {split: split for split in SPLITS} | {"valid": "val", "validation": "val"}
_AHEAD = 256
_In = TypeVar("_In")
_Out = TypeVar("_Out")


def _is_text(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError("a text that is not empty and has no NUL")
    return value


def _weight(value: Any) -> float:
    with suppress(ValueError):
        if 0 <= (weight := float(value)) < inf:
            return weight
    raise ValueError("a number of at least 0, or nothing for 1")


@dataclass(frozen=True, slots=True)
class ImageItem:
    """One image file of a set; values are checked when a manifest or a saved set is read.

    Attributes
    ----------
    path : str
        Path as found, with forward slashes.
    digest : str
        SHA-256 of the file's bytes, 64 hexadecimal digits; empty until the file has been read.
    label : str or None
        Class of the image, or classes separated by semicolons; None in an unlabelled set.
    split : str or None
        ``"train"``, ``"val"`` or ``"test"``; None in an unlabelled set.
    weight : float
        Sample weight.
    """

    path: Annotated[str, AfterValidator(_is_text)]
    digest: Digest = ""
    label: Annotated[str, AfterValidator(_is_text)] | None = None
    split: Annotated[str, record.among(Literal["train", "val", "test"])] | None = None
    weight: Annotated[float, BeforeValidator(_weight)] = 1.0


_ITEM = TypeAdapter(ImageItem)


def find_files(root: Path) -> tuple[list[ImageItem], list[str]]:
    """Read the layout of an image folder, see `ImageSet.from_folder`.

    Parameters
    ----------
    root : Path
        The folder.

    Returns
    -------
    items : list of ImageItem
        Files with an image's ending.
    ignored : list of str
        Paths left out, see `ImageSet`.

    Raises
    ------
    DataError
        The layout has no class folders, or is ambiguous.
    """
    folders, loose = _listed(root)
    split_folders = [folder for folder in folders if folder.name.lower() in _SPLIT_OF_NAME]
    with_classes = [folder for folder in split_folders if _listed(folder)[0]]
    if not folders:
        images, others = walk(root)
        return [ImageItem(path.as_posix()) for path in images], others
    if split_folders == folders and not with_classes:
        raise DataError(
            f"{str(root)!r} has the splits {', '.join(f.name for f in folders)} but no class "
            f"folders in them; expected {str(folders[0] / 'CLASS' / 'IMAGE')!r}"
        )
    if with_classes and split_folders != folders:
        other = next(folder.name for folder in folders if folder not in split_folders)
        raise DataError(
            f"{str(root)!r} mixes the split folder {with_classes[0].name!r} with the folder "
            f"{other!r}; use either ROOT/CLASS/IMAGE or ROOT/{{train,val,test}}/CLASS/IMAGE"
        )
    items: list[ImageItem] = []
    ignored = loose if with_classes else []
    for parent in folders if with_classes else [root]:
        split = _SPLIT_OF_NAME[parent.name.lower()] if with_classes else None
        classes, loose = _listed(parent)
        ignored += loose
        for folder in classes:
            images, others = walk(folder)
            items += [ImageItem(path.as_posix(), "", folder.name, split) for path in images]
            ignored += others if images else [*others, f"{folder.as_posix()}/"]
        if not classes:
            ignored.append(f"{parent.as_posix()}/")
    return items, ignored


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _listed(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the subfolders of a folder, and the paths of everything else in it."""
    visible = _visible(folder)
    plain = [path for path in visible if path.suffix.lower() not in IMAGE_SUFFIXES]
    subfolders = [path for path in plain if path.is_dir()]
    return subfolders, [path.as_posix() for path in sorted({*visible} - {*subfolders})]


def walk(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the files below `folder` that look like images, and the other files.

    Anything with an image's ending is returned, so that a folder named ``x.jpg`` or a dangling link
    is reported as a bad image. Linked subfolders are not followed, because they may form a loop.

    Parameters
    ----------
    folder : Path
        The folder.

    Returns
    -------
    images : list of Path
        Sorted within each folder.
    others : list of str
        Paths of the other files.

    Raises
    ------
    OSError
        A folder cannot be read.
    """
    images: list[Path] = []
    others: list[str] = []
    for path in _visible(folder):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            images.append(path)
        elif path.is_dir() and not path.is_symlink():
            below, other = walk(path)
            images.extend(below)
            others.extend(other)
        elif is_image(path):
            images.append(path)
        else:
            others.append(path.as_posix())
    return images, others


def read_manifest(manifest: Path) -> Iterator[ImageItem]:
    """Yield the rows of a CSV manifest as they are, see `ImageSet.from_manifest`.

    Parameters
    ----------
    manifest : Path
        The file.

    Yields
    ------
    ImageItem
        An image, row by row; its digest is the cell of that column, in lower case, or empty.

    Raises
    ------
    UsageError
        A column is missing, or a cell is empty, not a split or not a weight.
    DataError
        The manifest has no rows.
    """
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or []
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{str(manifest)!r} cannot be read as a manifest ({error}); expected a folder, or a "
            f"CSV file in UTF-8 with the header path,label or path,label,split"
        ) from error
    lacking = [column for column in ("path", "label") if column not in columns]
    if lacking:
        raise UsageError(
            f"manifest {str(manifest)!r} has no column {' and no column '.join(lacking)}; "
            f"expected the header path,label or path,label,split, found "
            f"{','.join(columns) or 'an empty file'}"
        )
    if not rows:
        raise DataError(f"manifest {str(manifest)!r} lists no images; add rows of path,label")
    has_splits = any(row.get("split") for _, row in rows)
    for line, row in rows:
        split = (row.get("split") or "").lower()
        cells = {
            "path": row["path"] and (manifest.parent / row["path"]).as_posix(),
            "label": row["label"] or "",
            "split": _SPLIT_OF_NAME.get(split, split) if has_splits else None,
            "weight": row.get("weight") or 1.0,
        }
        try:
            item = _ITEM.validate_python(cells)
        except ValidationError as error:
            of_split = error.errors()[0]["loc"] == ("split",)
            every = ", with a split in every row or in none" if of_split else ""
            raise UsageError(
                f"manifest {str(manifest)!r} is invalid in line {line}: {sentence_of(error)}; "
                f"correct it{every}"
            ) from error
        yield replace(item, digest=(row.get("digest") or "").lower())


def read_file(item: ImageItem) -> bytes:
    """Read an image's file.

    Parameters
    ----------
    item : ImageItem
        An image of a set.

    Returns
    -------
    bytes

    Raises
    ------
    BadImageError
        The file cannot be read, or its digest differs from the item's; the message is the reason.
    """
    return read_checked(Path(item.path), item.digest)


def in_threads(
    work: Callable[[_In], _Out],
    items: Iterable[_In],
    *,
    workers: int = 4,
    waiting: int = _AHEAD,
    initializer: Callable[[], None] | None = None,
) -> Generator[_Out]:
    """Call a function on each item in threads, ahead of the reader.

    Parameters
    ----------
    work : callable
        Called with an item.
    items : iterable
        Items in order, read lazily.
    workers : int
        Number of threads.
    waiting : int
        Maximum number of items started before the result of the first is read.
    initializer : callable, optional
        Called in each thread when it starts.

    Yields
    ------
    object
        The result for each item, in order.
    """
    begun: deque[Future[_Out]] = deque()
    pool = ThreadPoolExecutor(workers, initializer=initializer)
    try:
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) > waiting:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def digest_all(
    files: Sequence[ImageItem], max_bytes: int = 0
) -> tuple[tuple[ImageItem, ...], tuple[RejectedImage, ...]]:
    """Return the files with their digests, or as rejected if they cannot be read, in order.

    Parameters
    ----------
    files : sequence of ImageItem
        Images without digests.
    max_bytes : int
        Size of the largest file that is read; 0 for the default of 1 GB.

    Returns
    -------
    items : tuple of ImageItem
        Images with digests.
    rejected : tuple of RejectedImage
        Files that could not be read, with the reasons.
    """
    results = list(in_threads(partial(_digest, max_bytes=max_bytes or MAX_BYTES), files))
    items = tuple(result for result in results if isinstance(result, ImageItem))
    rejected = tuple(result for result in results if isinstance(result, RejectedImage))
    return items, rejected


def _digest(found: ImageItem, max_bytes: int) -> ImageItem | RejectedImage:
    try:
        found.path.encode()
        check_name(Path(found.path))
        return replace(found, digest=digest_file(Path(found.path), max_bytes))
    except UnicodeEncodeError:
        shown = found.path.encode(errors="replace").decode()
        return RejectedImage(shown, "the file's name is not UTF-8")
    except BadImageError as error:
        return RejectedImage(found.path, str(error))
