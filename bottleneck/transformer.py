"""Features as a scikit-learn transformer: image paths to rows of the cache."""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache, partial
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin

from bottleneck.bases.frozen import FrozenBase
from bottleneck.cache import Cache
from bottleneck.errors import DataError, PathMissingError, UsageError, counted
from bottleneck.extract import fill_banks
from bottleneck.images import ImageSet
from bottleneck.locks import locked
from bottleneck.pooling import check_pool, pool, pooled_shape
from bottleneck.settings import ExtractSettings
from bottleneck.sources import exists, location

__all__ = ["BottleneckFeatures"]

_ALONE = Lock()
"""While torch traces a network, it records what other threads compute as part of it."""
_ONE_LAYER = "expected one: search over layers, or list the names of those to join"
_NAMED = "expected the name of one, or a list of names to join"


class BottleneckFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turn paths of image files into the features of one or several layers of a frozen base.

    Missing features are computed and stored, all others are read from the cache: a grid search
    computes an image once for each base and layer, whatever the folds, and never again for another
    pooling, because maps are stored unpooled and pooled when read. The network is loaded if an
    image is missing, and once per process for the digest of its weights; it is not kept in memory.
    Several processes can share a cache: one computes, the others wait for it and read.

    `transform` needs no `fit`, as nothing is learnt from images. No image set and no record of an
    extraction are saved; features of an extraction with the same arguments are found, and vice
    versa.

    Parameters
    ----------
    model : str
        As for `FrozenBase`.
    layer : str or list of str, optional
        One layer, as for `FrozenBase`; the model's default layer if not given. Several are joined:
        their columns are side by side, in this order, and one pass of the network computes all.
    pool : str, optional
        Pooling of maps and tokens to vectors, see `bottleneck.pooling.pool`; vectors are unchanged.
        Without pooling they are flattened.
    weights : str or Path
        As for `FrozenBase`. A changed file is loaded again.
    image_size : (int, int), optional
        Height and width of the network's input in pixels, if not that of the weights.
    precision : str
        As for `FrozenBase`.
    device : str or torch.device
        As for `FrozenBase`.
    dtype : str
        Data type of stored features: ``float16`` or ``float32``.
    batch_size : int or "auto"
        Images per forward pass; ``auto`` adapts to the machine.
    cache : str or Path
        Folder of the feature cache. Workers that outlive a change of the working directory need
        absolute paths, for images as well.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> features = BottleneckFeatures("efficientnet_lite0", layer="last_conv", pool="avg")
    >>> pipeline = make_pipeline(features, LogisticRegression())
    """

    def __init__(
        self,
        model: str = "vgg16",
        *,
        layer: str | Sequence[str] | None = None,
        pool: str | None = None,
        weights: str | Path = "default",
        image_size: Sequence[int] | None = None,
        precision: str = "auto",
        device: str | torch.device = "auto",
        dtype: Literal["float16", "float32"] = "float16",
        batch_size: int | Literal["auto"] = "auto",
        cache: str | Path = "cache",
    ) -> None:
        self.model = model
        self.layer = layer
        self.pool = pool
        self.weights = weights
        self.image_size = image_size
        self.precision = precision
        self.device = device
        self.dtype = dtype
        self.batch_size = batch_size
        self.cache = cache

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: ARG002 - scikit-learn passes them
        """Check the parameters.

        Parameters
        ----------
        X, y
            Ignored.

        Returns
        -------
        BottleneckFeatures
            The transformer.

        Raises
        ------
        UsageError, WeightsError
            As for `FrozenBase` and `extract_features`; or a name in `layer` means several layers,
            or two mean the same.
        """
        self._find_layers()
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the features of images, computing missing ones.

        Parameters
        ----------
        X : array-like of str or Path, of shape (n,) or (n, 1)
            Image files; a path may repeat. Relative paths start from the working directory.

        Returns
        -------
        np.ndarray
            float32 of shape (n, d): one row for each path, in order.

        Raises
        ------
        UsageError
            `X` is not a list of paths of files, or a parameter is invalid.
        PathMissingError
            A file does not exist.
        DataError
            A file cannot be read, which is reported before anything is computed; or not decoded,
            which is reported once the features of all others are in the cache.
        WeightsError, CacheError, FeatureOverflowError
            As for `FrozenBase` and `extract_features`.
        """
        layers = self._find_layers()
        paths = _paths_of(X)
        images = ImageSet.from_paths(paths, exact=True)
        _refuse({image.path: image.reason for image in images.rejected}, paths)
        cache, digest_of = Cache(self.cache), {item.path: item.digest for item in images.items}
        banks = [cache.bank(self.model, layer.fingerprint) for layer, _ in layers]
        digests = [digest_of[path.as_posix()] for path in paths]
        stored = list(zip(layers, banks, strict=True))
        if not all(bank.holds(layer.name, digests).all() for (layer, _), bank in stored):
            settings = self._settings()
            cache.check_writable()
            # Folds overlap: processes that start together would compute the same images.
            with _ALONE, ExitStack() as held:
                for name in sorted({bank.name for bank in banks}):
                    held.enter_context(locked(cache.root / f".{name}.held"))
                (filling,) = fill_banks(images, FrozenBase(settings), cache, settings)
            bad = filling.bad
            _refuse(
                {path: bad[digest] for path, digest in digest_of.items() if digest in bad}, paths
            )

        def vectors(layer: _StoredLayer, how: str, rows: np.ndarray) -> np.ndarray:
            return pool(rows.astype(np.float32), how, layer.axes).reshape(len(rows), -1)

        found = [
            bank.read(layer.name, digests, convert=partial(vectors, layer, how))
            for (layer, how), bank in stored
        ]
        return found[0] if len(found) == 1 else np.hstack(found)

    def _settings(self) -> ExtractSettings:
        """Return the settings of the extraction; `UsageError` if a parameter is invalid."""
        names = ("model", "image_size", "precision", "dtype", "batch_size")
        return ExtractSettings(
            layers=self._given_layers(),
            weights=str(self.weights),
            device=str(self.device),
            **{name: getattr(self, name) for name in names},
        )

    def _given_layers(self) -> tuple[str, ...]:
        given = self.layer
        if given is None or isinstance(given, str):
            return () if given is None else (given,)
        if isinstance(given, Sequence) and given and all(isinstance(each, str) for each in given):
            return tuple(given)
        raise UsageError(f"layer {given!r} is not a string; {_NAMED}")

    def _find_layers(self) -> list[tuple["_StoredLayer", str]]:
        """Check the parameters; return the layers to read, each with its pooling."""
        settings, how = self._settings(), self.pool or "none"
        found: list[tuple[_StoredLayer, str]] = []
        for given in settings.layers or [None]:
            own = replace(settings, layers=() if given is None else (given,))
            layer = _stored_layer(own, _stamp(settings.weights))
            check_pool(how, layer.axes, layer.shown)
            if any(layer.name == other.name for other, _ in found):
                raise UsageError(
                    f"layer {given!r} is given twice, but joined layers must differ; name each once"
                )
            found.append((layer, how))
        return found

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of features of each layer, in order."""
        found = self._find_layers()
        return tuple(prod(pooled_shape(each.shape, how, each.axes)) for each, how in found)

    @property
    def _n_features_out(self) -> int:
        """Number of features, for `get_feature_names_out`."""
        return sum(self.widths)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        return tags


class _StoredLayer(NamedTuple):
    """What is needed to read a layer's rows.

    Attributes
    ----------
    name, shown : str
        torchvision's name, and Keras' name if there is one.
    fingerprint : str
        Fingerprint of the bank.
    shape : tuple of int
        Shape of one image's stored activation.
    axes : str
        Axes of the activation.
    """

    name: str
    shown: str
    fingerprint: str
    shape: tuple[int, ...]
    axes: str


@lru_cache
def _stored_layer(settings: ExtractSettings, _stamp: object) -> _StoredLayer:
    """Return the layer that a base stores, cached in the process until its file changes.

    Raises `UsageError` if the base has several layers.
    """
    with _ALONE:
        base = FrozenBase(settings)
    if len(base.layers) > 1:
        raise UsageError(
            f"layer {settings.layers[0]!r} of {settings.model} means {len(base.layers)} layers; "
            f"{_ONE_LAYER}"
        )
    (name,) = base.layers
    shown, fingerprint = base.names[name], base.fingerprint(name, settings.dtype)
    return _StoredLayer(name, shown, fingerprint, base.shapes[name], base.axes[name])


def _stamp(weights: str) -> tuple[int, ...] | None:
    """Return a value that changes with a file of weights; None if there is no file."""
    try:
        found = Path(weights).stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _paths_of(X: Any) -> list[Path]:
    """Return the paths of files that exist."""
    column = np.asarray(X, dtype=object)
    if column.ndim not in {1, 2} or column.shape[1:] not in {(), (1,)}:
        raise UsageError(
            f"images were given as an array of shape {column.shape}; expected paths of shape (n,) "
            f"or (n, 1): give one column of them, or a list"
        )
    given = column.ravel().tolist()
    if odd := [each for each in given if not isinstance(each, str | os.PathLike)]:
        raise UsageError(
            f"{len(odd)} of {counted(len(given), 'image is', 'images are')} not given as a path, "
            f"first {odd[0]!r}, of type {type(odd[0]).__name__}; expected str or Path: give the "
            f"paths of their files"
        )
    if not given:
        raise UsageError("no images were given; give the path of at least one")
    if missing := [path for path in given if not exists(path)]:
        raise PathMissingError(
            f"{len(missing)} of {counted(len(given), 'image does', 'images do')} not exist, first "
            f"{str(missing[0])!r}; correct the paths, which are relative to the working directory"
        )
    paths = [location(os.fspath(path)) for path in given]
    if folder := next(filter(Path.is_dir, paths), None):
        raise UsageError(f"{str(folder)!r} is a folder, expected an image; list the images in it")
    return paths


def _refuse(bad: Mapping[str, str], paths: Sequence[Path]) -> None:
    """Raise `DataError` if any images, given as path to reason, cannot be used."""
    if bad:
        path, reason = next(iter(bad.items()))
        raise DataError(
            f"{len(bad)} of {counted(len(set(paths)), 'image')} cannot be used, first {path!r} "
            f"({reason}); remove them from the paths, because a transformer returns a row for each"
        )
