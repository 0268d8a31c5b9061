"""Features with labels, groups and splits, in memory or read in blocks."""

import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np

from bottleneck.cache import Bank, Cache
from bottleneck.errors import DataError, UsageError
from bottleneck.features.selection import select_features, vectors
from bottleneck.fields import checked, made
from bottleneck.images import SPLITS, ImageSet
from bottleneck.records import FeatureSource, known_source
from bottleneck.settings import FeatureSettings

__all__ = ["Features", "StreamedRows", "features_of", "free_memory", "load_features"]

_BYTES = 16
"""A number as float32: read, split, standardised, and once more for what works on it."""
_LEAST = 2**24
_UNKNOWN = 2**32
"""Taken to be free where the system does not tell."""


@dataclass(frozen=True, eq=False)
class StreamedRows:
    """Rows of features, in place of an array of shape (n, d).

    Attributes
    ----------
    banks : sequence of Bank
        Where they are: first the plain images' rows, last those of augmented views.
    selection : FeatureSource
        Which they are.
    digests : np.ndarray
        SHA-256 of the n images.
    views : np.ndarray
        Which view each row is of.
    n_features : int
        d.
    memory : int
        Bytes that whoever works with them may take, the blocks included.
    """

    banks: Sequence[Bank]
    selection: FeatureSource
    digests: np.ndarray
    views: np.ndarray
    n_features: int
    memory: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and features."""
        return len(self.digests), self.n_features

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return len(self.digests) * self.n_features

    def __len__(self) -> int:
        return len(self.digests)

    def __getitem__(self, rows: np.ndarray) -> Self:
        """Return some rows, chosen by bool or by place."""
        return replace(self, digests=self.digests[rows], views=self.views[rows])

    def joined(self, other: Self) -> Self:
        """Return these rows and then others of the same selection."""
        return replace(
            self,
            digests=np.concatenate([self.digests, other.digests]),
            views=np.concatenate([self.views, other.views]),
        )

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield consecutive rows (m, d), float16 or float32, in a quarter of the memory.

        They may take 16 MiB in any case: row by row, a pass would take for ever.
        """
        pooled = self.selection.pool != self.selection.stored_pool
        convert = partial(vectors, self.selection) if pooled else None
        augmented = self.views > 0
        cuts = np.flatnonzero(np.diff(augmented)) + 1
        for start, end in pairwise(np.unique([0, *cuts, len(augmented)])):  # rows of one bank
            for block in self.banks[-1 if augmented[start] else 0].stream(
                self.selection.layer,
                self.digests[start:end].tolist(),
                view=self.views[start:end],
                memory=max(_LEAST, self.memory // 4),
                convert=convert,
            ):
                yield block.reshape(len(block), -1)


@dataclass(frozen=True)
class Features:
    """Features with labels, row by row.

    Attributes
    ----------
    X : np.ndarray or StreamedRows
        float32 of shape (n_samples, n_features); an unpooled map is flattened in its own order.
        First the plain images, then, where the selection has them, the augmented views of the
        training images: all first ones, all second ones, and so on.
    y : np.ndarray or None
        Labels, strings of shape (n_samples,); None in an unlabelled set.
    digests : np.ndarray
        SHA-256 of each image, hexadecimal: images with the same one belong together in a split.
    splits : np.ndarray
        ``"train"``, ``"val"`` or ``"test"`` for each row.
    paths : np.ndarray
        Where each image was at extraction.
    weights : np.ndarray
        Sample weights of the images, for fitting a head.
    views : np.ndarray
        uint16 of shape (n_samples,): 0 for a plain image, or which view of it a row is.
    images : ImageSet
        The whole set, for its digests.
    selection : FeatureSource
        Where the features came from.
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
    def bytes_in_memory(self) -> int:
        """What it takes to fit a classifier on the features, about."""
        return _BYTES * self.X.size

    @property
    def labels(self) -> np.ndarray:
        """The labels; `DataError` where the set has none."""
        if self.y is None:
            raise DataError(
                f"image set {self.images.name!r} has no labels; expected one folder per class, or "
                f"a manifest with labels: extract such a set"
            )
        return self.y

    @property
    def provenance(self) -> FeatureSource:
        """What a head must know of the features that it was fitted on."""
        splits = {name: self.images.digest_of(name) for name in SPLITS}
        return replace(self.selection, split_digests=splits)

    def training(self) -> Self:
        """Return the rows of the training images, views included; `DataError` if there are none."""
        found = self.take(self.splits == "train")
        if not len(found):
            raise DataError(
                f"image set {self.images.name!r} has no train images to fit a classifier on; add "
                f"a train folder and extract again"
            )
        return found

    def split(self, name: str) -> Self:
        """Return the plain images' rows of one split, of which there may be none."""
        return self.take((self.splits == name) & (self.views == 0))

    def take(self, rows: np.ndarray) -> Self:
        """Return some rows.

        Parameters
        ----------
        rows : np.ndarray
            Which: bool of shape (n_samples,), or places from 0 on.

        Raises
        ------
        UsageError
            They are neither.
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
    split: str | None = None,
    **options: Any,
) -> Features:
    """Read features and join the labels by digest.

    Parameters
    ----------
    cache : Cache, str or Path
        Where they are.
    chosen : FeatureSource or FeatureSettings, optional
        Which they are; the last extraction's by default, see `select_features`.
    memory : int, optional
        Bytes that it may take to fit a classifier on them: larger ones are `StreamedRows`, which
        are read in every pass over them. Without it they are read now, whatever their size.
    split : str, optional
        Read only the images of this split, if it has any: others need not be in the cache.
    **options
        The fields of `bottleneck.settings.FeatureSettings`, instead of `chosen`.

    Returns
    -------
    Features

    Raises
    ------
    DataError, UnknownNameError, UsageError
        As for `select_features`.
    CacheError
        A row is missing from the bank, or a part is damaged.
    """
    cache = Cache(cache)
    if isinstance(chosen, FeatureSource):
        selection = made(FeatureSource, chosen, options)
    else:
        selection = select_features(cache, chosen, **options)
    images = ImageSet.read_csv(cache.set_file(selection.image_set))
    plain = [item for item in images.items if split and item.split == split] or images.items
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
    """Read rows, plain ones first; larger ones than fit into the memory are left in the banks."""
    layer, convert = selection.layer, partial(vectors, selection)
    if memory is not None:
        n_features = banks[0].read(layer, digests[:1], convert=convert).shape[1]
        X = StreamedRows(banks, selection, np.array(digests), views, n_features, memory)
        if _BYTES * X.size > memory:
            return X
    number = int((views == 0).sum())
    found = banks[0].read(layer, digests[:number], convert=convert)
    if not selection.views:
        return found
    more = banks[-1].read(layer, digests[number:], view=views[number:], convert=convert)
    return np.concatenate([found, more])


@checked
def features_of(
    source: FeatureSource | None,
    cache: Cache | str | Path,
    *,
    memory: int | None = None,
    split: str | None = None,
) -> Features:
    """Load the features of the layer and image set that a head was fitted on, without views.

    Parameters
    ----------
    source : FeatureSource or None
        The head's `source`, which is the `provenance` of the features that it was fitted on.
    cache : Cache, str or Path
        Where they are.
    memory, split : int, str, optional
        As for `load_features`.

    Returns
    -------
    Features

    Raises
    ------
    DataError
        The training or validation images are not those that the head was fitted on: some of
        the images held out now may have been trained on. Or the head does not say which features
        it was fitted on.
    CacheError
        The cache lacks rows, or a part is damaged.
    """
    cache, source = Cache(cache), known_source(source)
    selection = replace(source.with_views(0), split_digests=None)
    if not cache.set_file(selection.image_set).exists():
        raise DataError(
            f"no image set {selection.image_set!r} in the cache folder {str(cache.root)!r}; give "
            f"the cache that the head was fitted on with `cache`"
        )
    features = load_features(cache, selection, memory=memory, split=split)
    runs = [run for run in cache.runs() if run.image_set == selection.image_set]
    if runs and runs[-1].image_set_digest != features.images.digest_of():
        raise DataError(
            f"{str(cache.set_file(selection.image_set))!r} has changed since its last "
            f"extraction; extract again"
        )
    known = source.split_digests or {}
    if any(features.images.digest_of(name) != known.get(name) for name in ("train", "val")):
        raise DataError(
            f"the training images of {selection.image_set!r} have changed since the head was "
            f"fitted; fit it again, so that no image is both trained on and held out"
        )
    return features


def free_memory() -> int:
    """Return how many bytes of memory are free, as far as the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return _UNKNOWN
    return int(dict(line.split(":", 1) for line in lines)["MemAvailable"].split()[0]) * 1024
