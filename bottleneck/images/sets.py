"""Image sets: images with their digests, labels and splits."""

import csv
import hashlib
import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pydantic import TypeAdapter, ValidationError

from bottleneck.errors import DataError, PathMissingError
from bottleneck.files import atomic_write
from bottleneck.images.find import (
    IMAGE_SUFFIXES,
    ImageItem,
    digest_all,
    find_files,
    read_manifest,
    walk,
)
from bottleneck.inputs import open_regular
from bottleneck.labels import carry_several, classes_of, rarest_classes
from bottleneck.records import RejectedImage, sentence_of

__all__ = ["ImageSet"]

_ITEMS = TypeAdapter(tuple[ImageItem, ...])


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels and splits.

    Attributes
    ----------
    name : str
        Name of the set, and of its file under ``cache/sets/``.
    items : tuple of ImageItem
        In the order found.
    rejected : tuple of RejectedImage
        Files with an image's ending that could not be read.
    ignored : tuple of str
        Files left out, with another ending or outside the class folders; and class and split
        folders without images, with a slash at the end.
    split_seed : int or None
        Seed of the split, if it was made here; None if the splits were given.
    """

    name: str
    items: tuple[ImageItem, ...]
    rejected: tuple[RejectedImage, ...] = ()
    ignored: tuple[str, ...] = ()
    split_seed: int | None = None

    @classmethod
    def open(cls, source: str | Path, *, name: str | None = None, seed: int = 0) -> Self:
        """Read an image set from a folder, or from a CSV manifest if `source` is a file."""
        if Path(source).is_file():
            return cls.from_manifest(source, name=name, seed=seed)
        return cls.from_folder(source, name=name, seed=seed)

    @classmethod
    def from_folder(cls, folder: str | Path, *, name: str | None = None, seed: int = 0) -> Self:
        """Read the images of a folder.

        Supported layouts are ``FOLDER/<class>/*`` (split here, see `with_splits`),
        ``FOLDER/{train,val|valid|validation,test}/<class>/*`` (the splits are kept) and a folder
        with only images (unlabelled). Class folders may have subfolders. Hidden files are ignored.

        Parameters
        ----------
        folder : str or Path
            The folder of the images.
        name : str, optional
            Name of the set; by default the folder's name.
        seed : int
            Seed of the split.

        Returns
        -------
        ImageSet

        Raises
        ------
        PathMissingError
            The folder does not exist.
        DataError
            The folder has no images, only one class or a class too small to split, or its layout is
            ambiguous.
        """
        root = Path(folder)
        if not root.is_dir():
            raise PathMissingError(
                f"no folder {str(root)!r}; give a folder with one subfolder of images per class, "
                f"or a CSV manifest, with `data`"
            )
        files, ignored = find_files(root)
        if not files:
            raise DataError(
                f"no images in {str(root)!r}; expected {str(root / 'CLASS' / 'IMAGE')!r} with one "
                f"of the endings {' '.join(sorted(IMAGE_SUFFIXES))}"
            )
        found = cls(name or root.resolve().name, *digest_all(files), tuple(ignored))
        return found.completed(root, seed)

    @classmethod
    def from_manifest(cls, file: str | Path, *, name: str | None = None, seed: int = 0) -> Self:
        """Read the images listed in a CSV file with the columns ``path,label[,split][,weight]``.

        Paths are relative to the manifest's folder. Other columns are ignored. Labels may name
        several classes, separated by semicolons. Without a ``split`` column, or with an empty one,
        the set is split here, see `with_splits`.

        Raises
        ------
        PathMissingError
            The manifest, or an image listed in it, does not exist.
        UsageError
            A column is missing, or a cell is empty, not a split or not a weight.
        DataError
            See `from_folder`.
        """
        manifest = Path(file)
        if not manifest.is_file():
            raise PathMissingError(f"no manifest {str(manifest)!r}; give a CSV with path,label")
        files = list(read_manifest(manifest))
        missing = [item for item in files if not os.path.lexists(item.path)]
        if missing:
            raise PathMissingError(
                f"{len(missing)} of {len(files)} images listed in {str(manifest)!r} do not exist, "
                f"first {missing[0].path!r}; correct the paths, which are relative to the "
                f"manifest's folder"
            )
        found = cls(name or manifest.resolve().stem, *digest_all(files))
        return found.completed(manifest, seed)

    @classmethod
    def from_paths(cls, paths: Sequence[str | Path], *, name: str = "images") -> Self:
        """Read unlabelled images: files as given, and all images in folders and below.

        Raises
        ------
        PathMissingError
            A path does not exist.
        DataError
            No image is found.
        """
        files: list[ImageItem] = []
        ignored: list[str] = []
        for path in map(Path, paths):
            if not os.path.lexists(path):
                raise PathMissingError(f"no file or folder {str(path)!r}; give images or folders")
            found, others = walk(path) if path.is_dir() else ([path], [])
            files += [ImageItem(each.as_posix()) for each in found]
            ignored += others
        if not files:
            raise DataError(f"no images in {', '.join(map(str, paths))}; give files or folders")
        return cls(name, *digest_all(list(dict.fromkeys(files))), tuple(dict.fromkeys(ignored)))

    @classmethod
    def from_rows(cls, name: str, rows: Iterable[Mapping[str, str]]) -> Self:
        """Build a set that has been saved from texts: the attributes of each `ImageItem`.

        Raises
        ------
        ValueError
            There are no rows, a digest is missing, or a value is invalid.
        """
        cells = [{column: cell for column, cell in row.items() if cell} for row in rows]
        try:
            items = _ITEMS.validate_python(cells)
        except ValidationError as error:
            raise ValueError(sentence_of(error)) from error
        if not items or not all(item.digest for item in items):
            raise ValueError("it is empty, or a digest is missing")
        return cls(name, items)

    @classmethod
    def read_csv(cls, file: str | Path) -> Self:
        """Read a set from a file of `write_csv`, without reading the images.

        Raises
        ------
        DataError
            The file is missing, empty or damaged.
        """
        path = Path(file)
        try:
            with io.TextIOWrapper(open_regular(path), "utf-8", newline="") as stream:
                return cls.from_rows(path.stem, csv.DictReader(stream))
        except (OSError, ValueError, csv.Error) as error:
            raise DataError(
                f"the image set {str(path)!r} cannot be read ({error}); extract it again"
            ) from error

    def write_csv(self, file: str | Path) -> None:
        """Write ``path,digest,label,split``, one row per image, completely or not at all.

        A column ``weight`` is added if any sample weight differs from 1.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
        weighted = any(item.weight != 1 for item in self.items)
        columns = ["path", "digest", "label", "split", *(["weight"] if weighted else [])]
        writer.writerow(columns)
        writer.writerows([getattr(item, column) for column in columns] for item in self.items)
        atomic_write(Path(file), text.getvalue())

    @property
    def labelled(self) -> bool:
        """Whether the images have labels."""
        return bool(self.items) and self.items[0].label is not None

    @property
    def multilabel(self) -> bool:
        """Whether images may have several classes: any label has a semicolon."""
        return carry_several(item.label or "" for item in self.items)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in the labels, sorted."""
        labels = {item.label for item in self.items if item.label is not None}
        return tuple(sorted({each for label in labels for each in classes_of(label)}))

    @property
    def leaks(self) -> tuple[str, ...]:
        """Digests of images that are in more than one split, sorted."""
        return self._digests_with_several("split")

    @property
    def conflicts(self) -> tuple[str, ...]:
        """Digests of images that have more than one label, sorted."""
        return self._digests_with_several("label")

    def _digests_with_several(self, attribute: str) -> tuple[str, ...]:
        pairs = {(item.digest, getattr(item, attribute)) for item in self.items}
        counts = Counter(digest for digest, _ in pairs)
        return tuple(sorted(digest for digest, count in counts.items() if count > 1))

    def without(self, rejected: Iterable[RejectedImage]) -> Self:
        """Return the set without the rejected images, which are added to its `rejected`.

        If the split was made here, it is made again for the remaining images.

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
        `test_share` of them (at least one image) become test images. So the split depends only on
        the images' bytes and the seed: not on names, order or machine. Identical images are in the
        same split even if their labels differ.

        Raises
        ------
        DataError
            A class has fewer than two distinct images, or all its images also have other labels.
        """
        split_of: dict[str, str] = {}
        labels = [item.label or "" for item in self.items]
        strata = self._digests_by((rarest,) for rarest in rarest_classes(labels))
        for digests in strata.values():
            ranked = sorted(digests, key=lambda digest: _rank(seed, digest))
            wanted = max(len(ranked) > 1, round(test_share * len(ranked)))
            wanted -= sum(split_of.get(digest) == "test" for digest in ranked)
            for digest in ranked:
                if digest not in split_of:
                    split_of[digest] = "test" if wanted > 0 else "train"
                    wanted -= 1
        for label, digests in self._digests_by(map(classes_of, labels)).items():
            if len(digests) < 2:  # noqa: PLR2004 - one to train on, one to hold out
                raise DataError(
                    f"class {label!r} has 1 usable image; at least 2 different ones are needed, "
                    f"one to train on and one to hold out: add images or remove the class"
                )
            if len({split_of[digest] for digest in digests}) == 1:
                raise DataError(
                    f"class {label!r} cannot be split, because its images also have other "
                    f"labels; correct the labels or add images, or give each image's split"
                )
        items = tuple(replace(item, split=split_of[item.digest]) for item in self.items)
        return replace(self, items=items, split_seed=seed)

    def _digests_by(self, names: Iterable[Iterable[str]]) -> dict[str, set[str]]:
        """Return the digests of the images with each name, sorted by name."""
        found: dict[str, set[str]] = defaultdict(set)
        for item, own in zip(self.items, names, strict=True):
            for name in own:
                found[name].add(item.digest)
        return dict(sorted(found.items()))

    def digest_of(self, *splits: str) -> str:
        """Return the SHA-256 over digests, labels and weights of the named splits, or of all.

        Paths, order and copies have no effect: renaming or moving an image changes nothing.
        """
        rows = {
            f"{item.digest} {item.split} {item.label}"
            f"{'' if item.weight == 1 else f' {item.weight}'}\n"
            for item in self.items
            if not splits or item.split in splits
        }
        return hashlib.sha256("".join(sorted(rows)).encode()).hexdigest()

    def completed(self, source: str | Path, seed: int) -> Self:
        """Return the set, split with a seed if it has labels and no split; `source` is for errors.

        Raises
        ------
        DataError
            There is only one class, or a class is too small to split.
        """
        if not self.labelled:
            return self
        if len(self.classes) == 1 and not self.multilabel:
            raise DataError(
                f"{str(source)!r} has only one class, {self.classes[0]!r}; a classifier needs at "
                f"least two: add a folder (or label) per class, or give the folder of the images "
                f"itself to extract without labels"
            )
        if any(item.split for item in self.items):
            return self
        return self.with_splits(seed=seed)


def _rank(seed: int, digest: str) -> str:
    return hashlib.sha256(f"{seed} {digest}".encode()).hexdigest()
