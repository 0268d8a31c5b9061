"""Image sets: images with their digests, labels and splits."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from bottleneck.arguments import made
from bottleneck.errors import DataError, UsageError
from bottleneck.files import atomic_write
from bottleneck.images.dividing import split_items
from bottleneck.images.given import found_in
from bottleneck.images.groups import groups_of, leaks_of
from bottleneck.images.items import Found, ImageItem, digest_all
from bottleneck.images.kinds import check_ending, check_kind
from bottleneck.images.layout import find_files, find_paths
from bottleneck.images.listing import is_listed, is_table, name_of
from bottleneck.images.saved import read_saved_file, text_to_save
from bottleneck.images.splits import leave_out_damaged, leave_out_small, only_one_class
from bottleneck.images.tables import read_table
from bottleneck.images.walking import existing
from bottleneck.labels import carry_several, classes_in
from bottleneck.names import natural_key
from bottleneck.records import RejectedImage
from bottleneck.settings import ReadSettings
from bottleneck.sources import location

__all__ = ["ImageSet"]


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
        Files that look like images and cannot be read, and links that are not followed.
    ignored : tuple of str
        Files left out: hidden, with another ending, or outside the class folders; and, with a slash
        at the end, hidden folders, and class and split folders without images.
    split_seed : int or None
        Seed of the split, if it was made here; None if the splits were given.
    min_images : int
        Number of different images that a class needs; of training images, if splits were given.
    left_out : tuple of ImageItem
        Images of classes with fewer.
    small : tuple of (str, int)
        These classes, with their numbers of images.
    lost : tuple of str
        Classes without an image that can be used.
    notes : tuple of str
        How the folder or table was read, where it is not obvious.
    """

    name: str
    items: tuple[ImageItem, ...]
    rejected: tuple[RejectedImage, ...] = ()
    ignored: tuple[str, ...] = ()
    split_seed: int | None = None
    min_images: int = 1
    left_out: tuple[ImageItem, ...] = ()
    small: tuple[tuple[str, int], ...] = ()
    lost: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        source: Any,
        settings: ReadSettings | None = None,
        **options: Any,
    ) -> Self:
        """Read an image set: a table with `from_manifest`, all else at a path with `from_folder`.

        `source` may also be an object: a dataset of torchvision, or a sequence of pairs of an image
        (bytes, of Pillow, or an array) and its label, or a dict of these by splits.
        """
        if not isinstance(source, str | Path):
            complete = options.pop("complete", True)
            asked = made(ReadSettings, settings, options)
            images = cls._digested(*found_in(source, asked.image_set), asked)
            return images.completed(images.name, asked.seed) if complete else images
        place = existing(location(source))
        listed = is_listed(place) or not (is_table(place) or place.is_file())
        return (cls.from_folder if listed else cls.from_manifest)(source, settings, **options)

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        settings: ReadSettings | None = None,
        *,
        name: str | None = None,
        complete: bool = True,
        **options: Any,
    ) -> Self:
        """Read the images of a folder, or of archives as if they were folders.

        Layouts are ``FOLDER/CLASS/*`` (split here, see `with_splits`), ``FOLDER/SPLIT/CLASS/*``,
        ``FOLDER/CLASS/SPLIT/*``, and only images (unlabelled). Hidden files are ignored.

        Parameters
        ----------
        folder : str or Path
            The folder of the images, or of archives; or an archive; or several, as
            ``shards-{000..099}.tar``.
        settings : ReadSettings, optional
            How it is read: the seed of the split, and what to leave out.
        name : str, optional
            Name of the set; by default `image_set` of the settings, or else the folder's name.
        complete : bool
            Whether to split the images and check the classes, see `completed`.
        **options
            Fields of `bottleneck.settings.ReadSettings`, in place of `settings`.

        Returns
        -------
        ImageSet

        Raises
        ------
        PathMissingError
            The folder does not exist.
        DataError
            The folder has no images, one class, a class too small to split, or two readings.
        """
        asked, root = made(ReadSettings, settings, options), existing(location(folder))
        found = find_files(root, nested=asked.nested, group_by=asked.group_by)
        images = cls._digested(name or asked.image_set or name_of(root), found, asked)
        return images.completed(root, asked.seed) if complete else images

    @classmethod
    def _digested(
        cls, name: str, found: Found, settings: ReadSettings, check: Any = check_kind
    ) -> Self:
        items, unread = digest_all(found.items, settings.max_bytes, check)
        # What predict is given has no classes that could be too small.
        items, damaged = leave_out_damaged(items) if check is check_kind else (items, ())
        rejected = (*found.rejected, *unread, *damaged)
        images = cls(name, items, rejected, tuple(found.ignored))
        lost = _missing(classes_in(item.label for item in found.items), images.classes)
        return replace(images, min_images=settings.min_images, lost=lost, notes=tuple(found.notes))

    @classmethod
    def from_manifest(
        cls,
        file: str | Path,
        settings: ReadSettings | None = None,
        *,
        name: str | None = None,
        complete: bool = True,
        **options: Any,
    ) -> Self:
        """Read a CSV file with the columns ``path,label[,split][,weight][,group]``, or JSON lines.

        Paths are relative to the table's folder. Labels may name several classes, separated by
        semicolons. Without splits, the set is split here, see `with_splits`.

        Parameters
        ----------
        file : str or Path
            The table.
        settings, name, **options
            As for `from_folder`; the name is by default the file's, without its ending.

        Returns
        -------
        ImageSet

        Raises
        ------
        PathMissingError
            The table, or each image listed in it, does not exist.
        UsageError
            A column is missing, a cell is empty, not a split or not a weight, or `nested` is given.
        DataError
            See `from_folder`.
        """
        asked, manifest = made(ReadSettings, settings, options), existing(location(file))
        if asked.nested:
            raise UsageError("`nested` applies to folders only; leave it out for a table")
        found = read_table(manifest, found=True, group_by=asked.group_by)
        images = cls._digested(name or asked.image_set or manifest.stem, found, asked)
        return images.completed(manifest, asked.seed) if complete else images

    @classmethod
    def from_paths(
        cls,
        paths: Sequence[str | Path],
        *,
        name: str = "images",
        exact: bool = False,
        max_bytes: int | None = None,
    ) -> Self:
        """Read images without splits: files, and all in folders, archives and tables.

        In tables, labels are optional. With `exact`, every file is an image, and paths stay as
        they are. A file may be given twice.

        Raises
        ------
        PathMissingError
            A path does not exist.
        UsageError
            A table has no column ``path``, or a cell is empty.
        DataError
            No image is found.
        """
        found = find_paths(map(location, paths), exact=exact)
        if not found.items:
            raise DataError(f"no images in {', '.join(map(str, paths))}; give files or folders")
        return cls._digested(name, found, ReadSettings(max_bytes=max_bytes), check_ending)

    @classmethod
    def read_csv(cls, file: str | Path) -> Self:
        """Read a set from a file of `write_csv`; `DataError` if it is missing or damaged."""
        path = Path(file)
        return cls(path.stem, read_saved_file(path))

    def write_csv(self, file: str | Path) -> None:
        """Write ``path,digest,label,split``, one row per image, and what else any image has."""
        atomic_write(Path(file), text_to_save(self.items))

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
        """The classes in the labels, in natural order: 1, 2, 10."""
        return tuple(sorted(classes_in(item.label for item in self.items), key=natural_key))

    @cached_property
    def group_of(self) -> dict[str, str]:
        """The group of each image that has one, by digest; identical images have one group."""
        return groups_of(self.items)

    @property
    def leaks(self) -> tuple[str, ...]:
        """Digests of images that are in more than one split, or whose group is, sorted."""
        return tuple(sorted(leaks_of(self.items, self.group_of)))

    @property
    def conflicts(self) -> tuple[str, ...]:
        """Digests of images that have more than one label, sorted."""
        pairs = {(item.digest, item.label) for item in self.items}
        counts = Counter(digest for digest, label in pairs if label is not None)
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
        if not gone:
            return smaller
        lost = self.lost + _missing(self.classes, smaller.classes)
        smaller = replace(smaller, lost=lost).with_common_classes()
        return smaller if self.split_seed is None else smaller.with_splits(seed=self.split_seed)

    def with_common_classes(self) -> Self:
        """Return the set without the classes that have fewer than `min_images`."""
        if self.min_images <= 1 or not self.labelled:
            return self
        given = self.split_seed is None
        items = [item if given else replace(item, split=None) for item in self.items]
        kept, out, small = leave_out_small(items, self.min_images)
        every = (*self.small, *small.items())
        return replace(self, items=kept, left_out=self.left_out + out, small=every)

    def with_splits(self, *, test_share: float = 0.2, seed: int = 0) -> Self:
        """Return the set split into train and test: a `test_share` of each class, at least 1 image.

        Within a class the images are ranked by the SHA-256 of seed and digest. So the split depends
        only on the images' bytes and the seed. Identical images are in the same split even if their
        labels differ; so are those of a group, which its name ranks.

        Raises
        ------
        DataError
            Classes have fewer than two distinct images or groups, or all have other labels, too.
        """
        try:
            items = split_items(self.items, test_share=test_share, seed=seed)
        except DataError as error:
            if not self.rejected:
                raise
            first, unused = self.rejected[0], f"{len(self.rejected)} of the images"
            raise DataError(
                f"{error}; {unused} could not be used, first {first.path!r} ({first.reason})"
            ) from error
        return replace(self, items=items, split_seed=seed)

    def digest_of(self, *splits: str) -> str:
        """Return the SHA-256 over digests, labels, weights and groups of some splits, or of all.

        Paths, order and copies have no effect.
        """
        rows = {
            f"{item.digest} {item.split} {item.label}"
            f"{'' if item.weight == 1 else f' {item.weight}'}"
            f"{'' if item.group is None else f' group {item.group}'}\n"
            for item in self.items
            if not splits or item.split in splits
        }
        return hashlib.sha256("".join(sorted(rows)).encode()).hexdigest()

    def completed(self, source: object, seed: int) -> Self:
        """Return the set, split with a seed if it has labels and no split; `source` is for errors.

        Raises
        ------
        DataError
            There is only one class, or classes are too small.
        """
        if not self.labelled:
            return self
        images = self.with_common_classes()
        if len(images.classes) == 1 and not images.multilabel:
            raise only_one_class(source, images.classes[0], self.min_images if images.small else 0)
        if any(item.split for item in images.items):
            return images
        return images.with_splits(seed=seed)


def _missing(before: Iterable[str], after: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({*before} - {*after}, key=natural_key))
