"""Features with labels, groups and splits, in memory or read in blocks."""

import reprlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np

from bottleneck.arguments import checked, made
from bottleneck.cache import Bank, Cache
from bottleneck.errors import DataError, UsageError
from bottleneck.features.selection import check_finite, select_features, vectors
from bottleneck.images import SPLITS, ImageSet
from bottleneck.records import FeatureSource
from bottleneck.settings import FeatureSettings

__all__ = ["Features", "StreamedRows", "free_memory", "load_features"]

_BYTES = 16
"""Bytes per feature value: float32 copies as read, split and standardised, and work space."""
_LEAST = 2**24
_UNKNOWN = 2**32  # bytes assumed to be free where the system does not report it


@dataclass(frozen=True, eq=False)
class StreamedRows:
    """Rows of features, in place of an array of shape (n, d).

    Attributes
    ----------
    banks : sequence of Bank
        Where the rows are: first those of unaugmented images, last those of augmented views.
    selection : FeatureSource
        The layer, image set and pooling.
    digests : np.ndarray
        SHA-256 of the n images.
    views : np.ndarray
        View number of each row.
    n_features : int
        d.
    memory : int
        Memory limit in bytes for all work on the rows, the blocks included.
    adjust : callable, optional
        Applied to each block, see `bottleneck.heads.adjust.Adjust`.
    """

    banks: Sequence[Bank]
    selection: FeatureSource
    digests: np.ndarray
    views: np.ndarray
    n_features: int
    memory: int
    adjust: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and number of features."""
        return len(self.digests), self.n_features

    @property
    def size(self) -> int:
        """Number of values."""
        return len(self.digests) * self.n_features

    def __len__(self) -> int:
        return len(self.digests)

    def __getitem__(self, rows: np.ndarray) -> Self:
        """Return some rows, chosen by boolean mask or by index."""
        return replace(self, digests=self.digests[rows], views=self.views[rows])

    def joined(self, other: Self) -> Self:
        """Return these rows followed by other rows of the same selection."""
        return replace(
            self,
            digests=np.concatenate([self.digests, other.digests]),
            views=np.concatenate([self.views, other.views]),
        )

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield blocks of rows (m, d), float16 or float32, that fit a quarter of the memory.

        A block may take 16 MiB in any case: a pass row by row would take too long.
        """
        source = self.selection
        convert = partial(vectors if source.pool != source.stored_pool else check_finite, source)
        augmented = self.views > 0
        cuts = np.flatnonzero(np.diff(augmented)) + 1
        for start, end in pairwise(np.unique([0, *cuts, len(augmented)])):  # rows of one bank
            for block in self.banks[-1 if augmented[start] else 0].stream(
                source.layer,
                self.digests[start:end].tolist(),
                view=self.views[start:end],
                memory=max(_LEAST, self.memory // 4),
                convert=convert,
            ):
                rows = block.reshape(len(block), -1)
                yield rows if self.adjust is None else self.adjust(rows)


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
    selection : FeatureSource
        The layer, image set and pooling that the features come from.
    """

    X: np.ndarray | StreamedRows
    y: np.ndarray | None
    digests: np.ndarray
    splits: np.ndarray
    paths: np.ndarray
    weights: np.ndarray
    views: np.ndarray
    images: ImageSet
    selection: FeatureSource

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
        return _BYTES * self.X.size

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
    def provenance(self) -> FeatureSource:
        """What a head records about the features that it was fitted on."""
        splits = {name: self.images.digest_of(name) for name in SPLITS}
        return replace(self.selection, split_digests=splits)

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
    chosen: FeatureSource | FeatureSettings | None = None,
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
    chosen : FeatureSource or FeatureSettings, optional
        The features to read; by default those of the last extraction, see `select_features`.
    memory : int, optional
        Memory limit in bytes for fitting a classifier on the features. Larger features become
        `StreamedRows`, which are read from the banks in every pass. Without a limit they are read
        now, whatever their size.
    split : str or sequence of str, optional
        Read only the images of these splits, if there are any; others need not be in the cache.
    **options
        The fields of `bottleneck.settings.FeatureSettings`, in place of `chosen`.

    Returns
    -------
    Features

    Raises
    ------
    DataError, UnknownNameError, UsageError
        As for `select_features`; or features are not finite.
    CacheError
        A row is missing from the bank, or a part is damaged.
    """
    cache = Cache(cache)
    if isinstance(chosen, FeatureSource):
        selection = made(FeatureSource, chosen, options)
    else:
        selection = select_features(cache, chosen, **options)
    images = ImageSet.read_csv(cache.set_file(selection.image_set))
    wanted = [split] if isinstance(split, str) else split or ()
    plain = [item for item in images.items if item.split in wanted] or images.items
    train = [item for item in plain if item.split == "train"]
    items = [*plain, *train * selection.views]
    numbers = np.repeat(np.arange(1, selection.views + 1), len(train))
    views = np.concatenate([np.zeros(len(plain)), numbers]).astype(np.uint16)
    digests = [item.digest for item in items]
    return Features(
        X=_read(cache.banks_of(selection), selection, digests, views, memory),
        y=np.array([item.label for item in items]) if images.labelled else None,
        digests=np.array(digests),
        splits=np.array([item.split or "" for item in items]),
        paths=np.array([item.path for item in items]),
        weights=np.array([item.weight for item in items]),
        views=views,
        images=images,
        selection=selection,
    )


def _read(
    banks: Sequence[Bank],
    selection: FeatureSource,
    digests: list[str],
    views: np.ndarray,
    memory: int | None,
) -> np.ndarray | StreamedRows:
    """Read rows, unaugmented ones first; leave them in the banks if they do not fit into memory."""
    layer, convert = selection.layer, partial(vectors, selection)
    number = int((views == 0).sum())
    if memory is not None:
        n_features = next(banks[0].stream(layer, digests[:number], convert=convert)).shape[1]
        X = StreamedRows(banks, selection, np.array(digests), views, n_features, memory)
        if _BYTES * X.size > memory:
            return X
    found = banks[0].read(layer, digests[:number], convert=convert)
    if not selection.views:
        return found
    more = banks[-1].read(layer, digests[number:], view=views[number:], convert=convert)
    return np.concatenate([found, more])


def free_memory() -> int:
    """Return the free memory in bytes, as far as the system reports it."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return _UNKNOWN
    return int(dict(line.split(":", 1) for line in lines)["MemAvailable"].split()[0]) * 1024
