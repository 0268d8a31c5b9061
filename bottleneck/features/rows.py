"""Features with labels, groups and splits, in memory or read in blocks."""

import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from bottleneck.arguments import checked, made
from bottleneck.cache import Cache
from bottleneck.errors import DataError, UsageError
from bottleneck.features.selection import select_features
from bottleneck.features.stored import BYTES, StreamedRows, columns_of
from bottleneck.images import SPLITS, ImageItem, ImageSet
from bottleneck.records import AnySource, FeatureSource, JoinedSource
from bottleneck.settings import FeatureSettings

__all__ = ["Features", "free_memory", "load_features", "no_images"]

_UNKNOWN = 2**32  # bytes assumed to be free where the system does not report it


@dataclass(frozen=True)
class Features:
    """Features with labels, one row per image or view.

    Attributes
    ----------
    X : np.ndarray or StreamedRows
        float32 of shape (n_samples, n_features); an unpooled map is flattened in its own order. The
        rows of unaugmented images come first, then, if the selection has them, the augmented views
        of the training images: all first views, all second views, and so on.
    y : np.ndarray or None
        Labels, strings of shape (n_samples,); None for an unlabelled set.
    digests : np.ndarray
        SHA-256 of each image, hexadecimal.
    splits : np.ndarray
        Split of each row: ``"train"``, ``"val"`` or ``"test"``.
    paths : np.ndarray
        Path of each image at extraction.
    weights : np.ndarray
        Sample weights, for fitting a head.
    views : np.ndarray
        uint16 of shape (n_samples,): 0 for an unaugmented image, else the number of its view.
    images : ImageSet
        The whole image set, for its digests.
    selection : FeatureSource or JoinedSource
        The image set, and the layer and pooling that the features come from, or several of them.
    widths : tuple of int
        The number of columns of each of these, if known.
    """

    X: np.ndarray | StreamedRows
    y: np.ndarray | None
    digests: np.ndarray
    splits: np.ndarray
    paths: np.ndarray
    weights: np.ndarray
    views: np.ndarray
    images: ImageSet
    selection: AnySource
    widths: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.X)

    @property
    def groups(self) -> np.ndarray:
        """The group of each image, of shape (n_samples,): rows of one group stay in one fold.

        It is the digest of an image that stands alone, see `bottleneck.images.groups_of`.
        """
        named = self.images.group_of
        if not named:
            return self.digests
        return np.array([named.get(digest, digest) for digest in self.digests.tolist()])

    @property
    def bytes_in_memory(self) -> int:
        """Approximate memory that fitting a classifier on the features takes, in bytes."""
        return BYTES * self.X.size

    @property
    def labels(self) -> np.ndarray:
        """The labels; `DataError` where the set has none."""
        if self.y is None:
            raise DataError(
                f"image set {self.images.name!r} has no labels; expected one folder per class, or "
                f"a table with labels: run 'bottleneck extract' on such a set"
            )
        return self.y

    @property
    def provenance(self) -> AnySource:
        """What a head records about the features that it was fitted on."""
        splits = {name: self.images.digest_of(name) for name in SPLITS}
        return replace(self.selection, split_digests=splits)

    def item(self, place: int) -> ImageItem:
        """Return the image of a row."""
        label = None if self.y is None else str(self.y[place])
        path, digest, split = (str(each[place]) for each in (self.paths, self.digests, self.splits))
        return ImageItem(path, digest, label, split or None)

    def blocks(self) -> Iterable[np.ndarray]:
        """Return consecutive rows: all at once if they are in memory, else as they are read."""
        return [self.X] if isinstance(self.X, np.ndarray) else self.X.blocks()

    def training(self) -> Self:
        """Return the rows of the training images, views included; `DataError` if there are none."""
        found = self.take(self.splits == "train")
        if not len(found):
            missing, remedy = "train images", "add a train folder"
            if self.y is None:
                missing, remedy = "labels", "put its images into class folders"
            raise DataError(
                f"image set {self.images.name!r} has no {missing} to fit a classifier on; {remedy} "
                f"and run {self.selection.made_by!r} again"
            )
        return found

    def split(self, name: str) -> Self:
        """Return the unaugmented rows of one split; there may be none."""
        return self.take((self.splits == name) & (self.views == 0))

    def take(self, rows: np.ndarray) -> Self:
        """Return some rows.

        Parameters
        ----------
        rows : np.ndarray
            Boolean mask of shape (n_samples,), or indices.

        Raises
        ------
        UsageError
            `rows` is neither.
        """
        given, n_samples = np.asarray(rows), len(self)
        is_mask = given.dtype == bool and given.shape == (n_samples,)
        are_places = given.dtype.kind in "iu" and given.ndim == 1
        if not is_mask and not (are_places and ((given >= 0) & (given < n_samples)).all()):
            raise UsageError(
                f"`rows` must be a boolean mask of shape ({n_samples},) or indices below "
                f"{n_samples}, got {given.dtype} of shape {given.shape}: "
                f"{reprlib.repr(given.tolist())}"
            )
        names = ("X", "digests", "splits", "paths", "weights", "views")
        own = {name: getattr(self, name)[given] for name in names}
        return replace(self, y=None if self.y is None else self.y[given], **own)


@checked
def load_features(
    cache: Cache | str | Path,
    chosen: FeatureSource | JoinedSource | FeatureSettings | None = None,
    *,
    memory: int | None = None,
    split: str | Sequence[str] | None = None,
    **options: Any,
) -> Features:
    """Read features and join the labels by digest.

    Parameters
    ----------
    cache : Cache, str or Path
        The cache, or its folder.
    chosen : FeatureSource, JoinedSource or FeatureSettings, optional
        The features to read; by default those of the last extraction, see `select_features`.
        `join_layers` makes one of several layers, whose columns are then side by side.
    memory : int, optional
        Memory limit in bytes for fitting a classifier on the features. Larger features become
        `StreamedRows`, which are read from the banks in every pass. Without a limit they are read
        now, whatever their size.
    split : str or sequence of str, optional
        Read only the images of this split, or of these, if there are any; others need not be in the
        cache.
    **options
        The fields of `bottleneck.settings.FeatureSettings`, in place of `chosen`.

    Returns
    -------
    Features

    Raises
    ------
    DataError, UnknownNameError, UsageError
        As for `select_features`; or features are not finite, or there are no images of `split`.
    CacheError
        A row is missing from the bank, or a part is damaged.
    """
    cache = Cache(cache)
    selection: AnySource
    if isinstance(chosen, FeatureSource | JoinedSource):
        selection = made(type(chosen), chosen, options)
    else:
        selection = select_features(cache, chosen, **options)
    images = ImageSet.read_csv(cache.set_file(selection.image_set))
    wanted = [split] if isinstance(split, str) else split or ()
    plain = [item for item in images.items if item.split in wanted]
    if isinstance(split, str) and not plain:
        there = {item.split or "" for item in images.items}
        raise no_images(split, there, selection)
    plain = plain or [*images.items]
    train = [item for item in plain if item.split == "train"]
    items = [*plain, *train * selection.views]
    numbers = np.repeat(np.arange(1, selection.views + 1), len(train))
    views = np.concatenate([np.zeros(len(plain)), numbers]).astype(np.uint16)
    digests = np.array([item.digest for item in items])
    columns = columns_of(cache, selection, digests[: len(plain)], images)
    X = StreamedRows.of(columns, digests, views, memory)
    return Features(
        X=X.read() if BYTES * X.size <= X.memory else X,
        y=np.array([item.label for item in items]) if images.labelled else None,
        digests=digests,
        splits=np.array([item.split or "" for item in items]),
        paths=np.array([item.path for item in items]),
        weights=np.array([item.weight for item in items]),
        views=views,
        images=images,
        selection=selection,
        widths=tuple(each.width for each in columns),
    )


def no_images(split: str, there: Iterable[str], selection: AnySource) -> DataError:
    """Return the error of features without images of a split.

    Parameters
    ----------
    split : str
        The split.
    there : iterable of str
        The splits that there are; empty for images without labels.
    selection : FeatureSource or JoinedSource
        The features.

    Returns
    -------
    DataError
    """
    others = ", ".join(sorted(set(there) - {""})) or "unlabelled ones"
    return DataError(
        f"image set {selection.image_set!r} has no {split} images, only {others}; add some, run "
        f"{selection.made_by!r} and fit again, or choose another with `split`"
    )


def free_memory() -> int:
    """Return the free memory in bytes, as far as the system reports it."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return _UNKNOWN
    return int(dict(line.split(":", 1) for line in lines)["MemAvailable"].split()[0]) * 1024
