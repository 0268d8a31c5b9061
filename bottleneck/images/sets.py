"""Image sets: images with their digests, labels and splits."""

import csv
import hashlib
import io
import os
import re
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

from bottleneck.errors import DataError, PathMissingError
from bottleneck.files import atomic_write
from bottleneck.images.find import (
    IMAGE_SUFFIXES,
    SPLITS,
    FoundFile,
    find_files,
    read_manifest,
    walk,
)

__all__ = ["ImageItem", "ImageSet", "RejectedImage", "in_threads"]

_AHEAD = 256
_In = TypeVar("_In")
_Out = TypeVar("_Out")

_SET_COLUMNS = ("path", "digest", "label", "split")


@dataclass(frozen=True, slots=True)
class ImageItem:
    """One image file of a set.

    Attributes
    ----------
    path : str
        As found, with forward slashes.
    digest : str
        SHA-256 of the file's bytes, 64 hexadecimal digits.
    label : str or None
        Its class; None in an unlabelled set.
    split : str or None
        ``"train"``, ``"val"`` or ``"test"``; None in an unlabelled set.
    """

    path: str
    digest: str
    label: str | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True)
class RejectedImage:
    """An image that could not be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels and splits.

    Attributes
    ----------
    name : str
        Names the file under ``cache/sets/``.
    items : tuple of ImageItem
        In the order in which they were found.
    rejected : tuple of RejectedImage
        Files with an image's ending that could not be read at all.
    ignored : tuple of str
        Files left out: another ending, or outside the class folders.
    split_seed : int or None
        Seed of the split that was made here; None where the splits were given.
    """

    name: str
    items: tuple[ImageItem, ...]
    rejected: tuple[RejectedImage, ...] = ()
    ignored: tuple[str, ...] = ()
    split_seed: int | None = None

    @classmethod
    def open(cls, source: str | Path, *, name: str | None = None, seed: int = 0) -> Self:
        """Read an image set from a folder or, where `source` is a file, from a CSV manifest."""
        if Path(source).is_file():
            return cls.from_manifest(source, name=name, seed=seed)
        return cls.from_folder(source, name=name, seed=seed)

    @classmethod
    def from_folder(cls, folder: str | Path, *, name: str | None = None, seed: int = 0) -> Self:
        """Read the images of a folder.

        Understood are ``FOLDER/<class>/*`` (split here, see `with_splits`),
        ``FOLDER/{train,val|valid|validation,test}/<class>/*`` (the splits are kept) and a folder
        that holds images only (unlabelled). Class folders may have subfolders. Hidden files are
        passed over.

        Parameters
        ----------
        folder : str or Path
            The images' folder.
        name : str, optional
            The set's name; the folder's own by default.
        seed : int
            Seed of the split.

        Raises
        ------
        PathMissingError
            There is no such folder.
        DataError
            The folder has no images, one class only, a class too small to split, or its layout
            can be read in two ways.
        """
        root = Path(folder)
        if not root.is_dir():
            raise PathMissingError(
                f"no folder {str(root)!r}; give a folder with one subfolder of images per class, "
                f"or a CSV manifest, with --data"
            )
        found = find_files(root)
        if not found.files:
            raise DataError(
                f"no images in {str(root)!r}; expected {str(root / 'CLASS' / 'IMAGE')!r} with one "
                f"of the endings {' '.join(sorted(IMAGE_SUFFIXES))}"
            )
        items, rejected = _digest_all(found.files)
        built = cls(name or root.resolve().name, items, rejected, tuple(found.ignored))
        return built._completed(str(root), seed)

    @classmethod
    def from_manifest(cls, file: str | Path, *, name: str | None = None, seed: int = 0) -> Self:
        """Read the images that a CSV file with the columns ``path,label[,split]`` lists.

        Paths are relative to the manifest's folder. Other columns are passed over. Without a
        ``split`` column, or with an empty one, the set is split here, see `with_splits`.

        Raises
        ------
        PathMissingError
            The manifest, or an image that it lists, does not exist.
        UsageError
            A column is missing, or a cell is empty or not a split.
        DataError
            See `from_folder`.
        """
        manifest = Path(file)
        if not manifest.is_file():
            raise PathMissingError(f"no manifest {str(manifest)!r}; give a CSV with path,label")
        files = list(read_manifest(manifest))
        missing = [found for found in files if not os.path.lexists(found.path)]
        if missing:
            raise PathMissingError(
                f"{len(missing)} of {len(files)} images listed in {str(manifest)!r} do not exist, "
                f"first {str(missing[0].path)!r}; correct the paths, which are relative to the "
                f"manifest's folder"
            )
        items, rejected = _digest_all(files)
        built = cls(name or manifest.resolve().stem, items, rejected)
        return built._completed(str(manifest), seed)

    @classmethod
    def from_digests(
        cls, file: str | Path, digests: Sequence[str], *, name: str, seed: int = 0
    ) -> Self:
        """Read a manifest whose images need not be at hand, given the digest of each row.

        Raises
        ------
        UsageError, DataError
            See `from_manifest`.
        """
        found = read_manifest(Path(file))
        items = tuple(
            ImageItem(each.path.as_posix(), digest, each.label, each.split)
            for each, digest in zip(found, digests, strict=True)
        )
        built = cls(name, items)
        return built._completed(str(file), seed)

    @classmethod
    def from_paths(cls, paths: Sequence[str | Path], *, name: str = "images") -> Self:
        """Read unlabelled images: files as given, folders with all images below them.

        Raises
        ------
        PathMissingError
            One of the paths does not exist.
        DataError
            No image is found.
        """
        files: list[FoundFile] = []
        ignored: list[str] = []
        for path in map(Path, paths):
            if not os.path.lexists(path):
                raise PathMissingError(f"no file or folder {str(path)!r}; give images or folders")
            if path.is_dir():
                candidates, others = walk(path)
                files.extend(FoundFile(candidate) for candidate in candidates)
                ignored.extend(others)
            else:
                files.append(FoundFile(path))
        if not files:
            raise DataError(f"no images in {', '.join(map(str, paths))}; give files or folders")
        items, rejected = _digest_all(list(dict.fromkeys(files)))
        return cls(name, items, rejected, tuple(dict.fromkeys(ignored)))

    @classmethod
    def read_csv(cls, file: str | Path) -> Self:
        """Read a set as `write_csv` wrote it, without touching the images."""
        path = Path(file)
        try:
            with path.open(newline="", encoding="utf-8") as stream:
                items = tuple(
                    ImageItem(
                        row["path"], row["digest"], row["label"] or None, row["split"] or None
                    )
                    for row in csv.DictReader(stream)
                )
        except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
            raise DataError(
                f"the image set {str(path)!r} cannot be read ({error}); extract it again"
            ) from error
        whole = (
            re.fullmatch("[0-9a-f]{64}", item.digest or "") and item.split in {*SPLITS, None}
            for item in items
        )
        if not items or not all(whole):
            raise DataError(f"the image set {str(path)!r} is empty or damaged; extract it again")
        return cls(path.stem, items)

    def write_csv(self, file: str | Path) -> None:
        """Write ``path,digest,label,split``, one row per image, whole or not at all."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(_SET_COLUMNS)
        for item in self.items:
            writer.writerow((item.path, item.digest, item.label or "", item.split or ""))
        atomic_write(Path(file), text.getvalue())

    @property
    def labelled(self) -> bool:
        """Whether the images have labels."""
        return bool(self.items) and self.items[0].label is not None

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels, sorted."""
        return tuple(sorted({item.label for item in self.items if item.label is not None}))

    @property
    def leaks(self) -> tuple[str, ...]:
        """Digests of images whose very bytes stand in more than one split, sorted."""
        return self._digests_with_several("split")

    @property
    def conflicts(self) -> tuple[str, ...]:
        """Digests of images whose very bytes carry more than one label, sorted."""
        return self._digests_with_several("label")

    def _digests_with_several(self, attribute: str) -> tuple[str, ...]:
        values: dict[str, set[str | None]] = defaultdict(set)
        for item in self.items:
            values[item.digest].add(getattr(item, attribute))
        return tuple(sorted(digest for digest, seen in values.items() if len(seen) > 1))

    def without(self, rejected: Iterable[RejectedImage]) -> Self:
        """Return the set without the images rejected, which join its own rejected ones.

        A split that was made here is made anew, for the images that are left.

        Raises
        ------
        DataError
            See `with_splits`.
        """
        rejected = tuple(rejected)
        gone = {image.path for image in rejected}
        kept = tuple(item for item in self.items if item.path not in gone)
        smaller = replace(self, items=kept, rejected=self.rejected + rejected)
        if self.split_seed is None or not gone:
            return smaller
        return smaller.with_splits(seed=self.split_seed)

    def with_splits(self, *, test_share: float = 0.2, seed: int = 0) -> Self:
        """Return the set split into train and test, stratified by class.

        Within a class the images are ranked by the SHA-256 of seed and digest; the first
        `test_share` of the ranks (at least one image) are the test images. So the split depends on
        the images' bytes and the seed alone: not on names, order or machine. Identical images fall
        into the same split even where their labels differ.

        Raises
        ------
        DataError
            A class has fewer than two different images, or none that is not also under another.
        """
        digests_of_class: dict[str, set[str]] = defaultdict(set)
        for item in self.items:
            digests_of_class[item.label or ""].add(item.digest)
        split_of: dict[str, str] = {}
        for label in sorted(digests_of_class):
            digests = digests_of_class[label]
            if len(digests) < 2:  # noqa: PLR2004 - one to train on, one to test on
                raise DataError(
                    f"class {label!r} has 1 usable image; at least 2 different ones are needed, "
                    f"one to train on and one to test on: add images or remove the class"
                )
            ranked = sorted(digests, key=lambda digest: _rank(seed, digest))
            wanted = max(1, round(test_share * len(ranked)))
            wanted -= sum(split_of.get(digest) == "test" for digest in ranked)
            for digest in ranked:
                if digest not in split_of:
                    split_of[digest] = "test" if wanted > 0 else "train"
                    wanted -= 1
            if len({split_of[digest] for digest in digests}) == 1:
                raise DataError(
                    f"class {label!r} cannot be split, as its images stand under other classes as "
                    f"well; correct the labels or add images"
                )
        items = tuple(replace(item, split=split_of[item.digest]) for item in self.items)
        return replace(self, items=items, split_seed=seed)

    def digest_of(self, *splits: str) -> str:
        """Return the SHA-256 over digests and labels of the splits named (of all, if none is).

        Paths, order and copies do not count: a renamed or moved image changes nothing.
        """
        rows = {
            f"{item.digest} {item.split} {item.label}\n"
            for item in self.items
            if not splits or item.split in splits
        }
        return hashlib.sha256("".join(sorted(rows)).encode()).hexdigest()

    def _completed(self, source: str, seed: int) -> Self:
        if not self.labelled:
            return self
        if len(self.classes) == 1:
            raise DataError(
                f"{source!r} has one class only, {self.classes[0]!r}; a classifier needs at least "
                f"two: add a folder (or label) per class, or give the folder of the images itself "
                f"to extract without labels"
            )
        if any(item.split for item in self.items):
            return self
        return self.with_splits(seed=seed)


def in_threads(work: Callable[[_In], _Out], items: Sequence[_In]) -> Iterator[_Out]:
    """Yield what some work makes of each item, in order; only so many of them wait at a time."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        for start in range(0, len(items), _AHEAD):
            yield from pool.map(work, items[start : start + _AHEAD])


def _digest_all(
    files: Sequence[FoundFile],
) -> tuple[tuple[ImageItem, ...], tuple[RejectedImage, ...]]:
    results = list(in_threads(_digest, files))
    items = tuple(result for result in results if isinstance(result, ImageItem))
    rejected = tuple(result for result in results if isinstance(result, RejectedImage))
    return items, rejected


def _digest(found: FoundFile) -> ImageItem | RejectedImage:
    path = found.path.as_posix()
    try:
        path.encode()
        mode = found.path.stat().st_mode
        if not stat.S_ISREG(mode):
            return RejectedImage(path, "a folder" if stat.S_ISDIR(mode) else "not a regular file")
        with found.path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except UnicodeEncodeError:
        shown = path.encode(errors="replace").decode()
        return RejectedImage(shown, "the file's name is not UTF-8")
    except OSError as error:
        return RejectedImage(path, error.strerror or str(error))
    return ImageItem(path, digest, found.label, found.split)


def _rank(seed: int, digest: str) -> str:
    return hashlib.sha256(f"{seed} {digest}".encode()).hexdigest()
