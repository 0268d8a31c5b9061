"""Features with labels, groups and splits."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np

from bottleneck.cache import Cache
from bottleneck.errors import DataError
from bottleneck.features.selection import Selection
from bottleneck.features.streaming import StreamedRows
from bottleneck.images import SPLITS, ImageSet

__all__ = ["Features", "features_of", "load_features"]


_BYTES = 16
"""A number as float32: read, split, standardised, and once more for what works on it."""


@dataclass(frozen=True)
class Features:
    """Features with labels, row by row.

    Attributes
    ----------
    X : np.ndarray or StreamedRows
        float32 of shape (n_samples, n_features); an unpooled map is flattened in its own order.
    y : np.ndarray or None
        Labels, strings of shape (n_samples,); None in an unlabelled set.
    digests : np.ndarray
        SHA-256 of each image, hexadecimal: images with the same one belong together in a split.
    splits : np.ndarray
        ``"train"``, ``"val"`` or ``"test"`` for each row.
    paths : np.ndarray
        Where each image was at extraction.
    weights : np.ndarray
        What each image counts where a head is fitted.
    images : ImageSet
        The whole set, for its digests.
    selection : Selection
        Where the features came from.
    """

    X: np.ndarray | StreamedRows
    y: np.ndarray | None
    digests: np.ndarray
    splits: np.ndarray
    paths: np.ndarray
    weights: np.ndarray
    images: ImageSet
    selection: Selection

    @classmethod
    def of(cls, images: ImageSet, selection: Selection, X: np.ndarray | StreamedRows) -> Self:
        """Join the labels of images to their rows, which are in the images' order."""
        items = images.items
        return cls(
            X=X,
            y=np.array([item.label for item in items]) if images.labelled else None,
            digests=np.array([item.digest for item in items]),
            splits=np.array([item.split or "" for item in items]),
            paths=np.array([item.path for item in items]),
            weights=np.array([item.weight for item in items]),
            images=images,
            selection=selection,
        )

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
    def provenance(self) -> dict[str, Any]:
        """What a head must know of the features that it was fitted on, as JSON holds it."""
        splits = {name: self.images.digest_of(name) for name in SPLITS}
        return {**asdict(self.selection), "split_digests": splits}

    def training(self) -> Self:
        """Return the rows of the training images; `DataError` where there are none."""
        found = self.split("train")
        if not len(found):
            raise DataError(
                f"image set {self.images.name!r} has no train images; expected some to fit a "
                f"classifier on: add a train folder and extract again"
            )
        return found

    def split(self, name: str) -> Self:
        """Return the rows of one split, of which there may be none."""
        rows = self.splits == name
        return replace(
            self,
            X=self.X[rows],
            y=None if self.y is None else self.y[rows],
            digests=self.digests[rows],
            splits=self.splits[rows],
            paths=self.paths[rows],
            weights=self.weights[rows],
        )


def load_features(cache: Cache, selection: Selection, *, memory: int | None = None) -> Features:
    """Read the features of a selection and join the labels by digest.

    Parameters
    ----------
    cache : Cache
        Where they are.
    selection : Selection
        Which they are.
    memory : int, optional
        Bytes that it may take to fit a classifier on them: larger ones are `StreamedRows`, which
        are read in every pass over them. Without it they are read now, whatever their size.

    Raises
    ------
    CacheError
        A row is missing from the bank, or a part is damaged.
    """
    images = ImageSet.read_csv(cache.set_file(selection.image_set))
    bank = cache.bank(selection.model, selection.fingerprint)
    digests = [item.digest for item in images.items]
    if memory is not None:
        first = bank.read(selection.layer, digests[:1], convert=selection.vectors)
        rows = StreamedRows(bank, selection, np.array(digests), first.shape[1], memory)
        if (found := Features.of(images, selection, rows)).bytes_in_memory > memory:
            return found
    X = bank.read(selection.layer, digests, convert=selection.vectors)
    return Features.of(images, selection, X)


def features_of(source: Mapping[str, Any], cache: Cache, *, memory: int | None = None) -> Features:
    """Load the features of the layer and image set that a head was fitted on.

    Parameters
    ----------
    source : mapping
        The head's `source`, which is the `provenance` of the features that it was fitted on.
    cache : Cache
        Where they are.
    memory : int, optional
        As for `load_features`.

    Raises
    ------
    DataError
        The training or validation images are not those that the head was fitted on: some of
        the images held out now may have been trained on.
    CacheError
        The cache lacks rows, or a part is damaged.
    """
    selection = Selection.of_head(source)
    if not cache.set_file(selection.image_set).exists():
        raise DataError(
            f"no image set {selection.image_set!r} in the cache folder {str(cache.root)!r}; name "
            f"the cache that the head was fitted on with --cache"
        )
    features = load_features(cache, selection, memory=memory)
    runs = [run for run in cache.runs() if run["image_set"] == selection.image_set]
    if runs and runs[-1]["image_set_digest"] != features.images.digest_of():
        raise DataError(
            f"{str(cache.set_file(selection.image_set))!r} is not as its last extraction wrote it; "
            f"extract again"
        )
    now = features.provenance["split_digests"]
    if any(now[split] != source["split_digests"][split] for split in ("train", "val")):
        raise DataError(
            f"the training images of {selection.image_set!r} have changed since the head was "
            f"fitted; fit it again, so that no image is both trained on and held out"
        )
    return features
