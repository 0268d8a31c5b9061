"""Put features on a map: two dimensions that show as much of them as possible."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bottleneck.errors import UsageError, counted
from bottleneck.features import Features, free_memory
from bottleneck.heads.adjust import Adjust

__all__ = ["MapSection", "place_on_map"]

_MOST_FITTED = 5000
"""Rows that the axes are computed from; others are only placed on them."""
_REDUCED = 50
"""Principal components that discriminant analysis works on, so that few images suffice."""
_BYTES = 16
"""Per value of the rows that are fitted: float32 as read, centred, and work space."""
_FEWEST = 3


@dataclass(frozen=True)
class MapSection:
    """How features were put on a map.

    Attributes
    ----------
    sentence : str
        The method, and how much of the features it shows.
    axes : tuple of str
        Names of the axes.
    """

    sentence: str
    axes: tuple[str, str]


def place_on_map(features: Features, how: str) -> tuple[MapSection, np.ndarray] | None:
    """Return the place of each row on a map of principal components, or of discriminants.

    The axes are the first two principal components, by scikit-learn's randomized solver with a
    fixed seed (Halko, Martinsson and Tropp 2011, Finding Structure with Randomness); or the first
    two discriminants of the training images' classes, computed on 50 principal components with
    covariances shrunk by Ledoit and Wolf's rule. Rows of joined layers are first scaled to unit
    length, those of each layer apart, so that all count alike.

    Parameters
    ----------
    features : Features
        n rows without views.
    how : str
        ``pca`` or ``lda``.

    Returns
    -------
    (MapSection, np.ndarray) or None
        The description, and places of shape (n, 2) from 0 to 1, each axis scaled by itself. None
        if there are too few rows for a map.

    Raises
    ------
    UsageError
        Discriminants were asked for, but images have several classes or none.
    """
    count, width = features.X.shape
    most = min(_MOST_FITTED, max(_FEWEST, free_memory() // 2 // (_BYTES * width)))
    fitted = features.take(np.unique(np.linspace(0, count - 1, most).astype(int)))
    apart = features.widths if len(features.widths) > 1 else ()
    adjust = Adjust(normalize="l2" if apart else "none", widths=apart)
    rows = fitted.X if isinstance(fitted.X, np.ndarray) else fitted.X.read()
    rows = adjust(rows)
    fitted = replace(fitted, X=rows)
    if len(rows) < _FEWEST or not np.ptp(rows, axis=0).any():
        return None
    section, project = (_pca if how == "pca" else _lda)(fitted)
    blocks = (adjust(np.asarray(block, np.float32)) for block in features.blocks())
    places = np.concatenate([project(block) for block in blocks])
    low, high = places.min(axis=0), places.max(axis=0)
    return section, (places - low) / np.where(high > low, high - low, 1)


def _source(features: Features) -> str:
    apart = len(features.widths) > 1
    return f"{features.selection}{', each layer scaled to unit length' * apart}"


def _components(rows: np.ndarray, most: int) -> Any:
    from sklearn.decomposition import PCA

    number = min(most, *rows.shape)
    return PCA(number, svd_solver="randomized", random_state=0).fit(rows)


def _pca(fitted: Features) -> tuple[MapSection, Any]:
    rows = np.asarray(fitted.X)
    pca = _components(rows, 2)
    shares = [*pca.explained_variance_ratio_, 0.0][:2]
    axes = [
        f"component {place} ({share:.1%} of the variance)" for place, share in enumerate(shares, 1)
    ]
    sentence = (
        f"The first two principal components of {_source(fitted)}. They show "
        f"{sum(shares):.1%} of the variance of {counted(rows.shape[1], 'feature')}, so images that "
        f"are close here may differ in the rest."
    )
    return MapSection(sentence, (axes[0], axes[1])), lambda block: _two(pca.transform(block))


def _lda(fitted: Features) -> tuple[MapSection, Any]:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    if fitted.y is None or fitted.images.multilabel:
        raise UsageError(
            f"`map=lda` needs one class for each image, but images of {fitted.images.name!r} have "
            f"{'no classes' if fitted.y is None else 'several'}; give `map=pca`"
        )
    pca = _components(np.asarray(fitted.X), _REDUCED)
    train = fitted.take(fitted.splits == "train")
    classes, counts = np.unique(train.labels, return_counts=True)
    train = train.take(np.isin(train.labels, classes[counts > 1]))
    if len(set(train.labels)) < 2 or len(train) <= len(classes):  # noqa: PLR2004 - to tell apart
        raise UsageError(
            "`map=lda` needs two classes with two training images each; give `map=pca`"
        )
    lda = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto")
    lda.fit(pca.transform(train.X), train.labels)

    def project(block: np.ndarray) -> np.ndarray:
        reduced = pca.transform(block)
        found = lda.transform(reduced)[:, :2]
        return found if found.shape[1] > 1 else _two(np.column_stack([found, reduced[:, :1]]))

    sentence = (
        f"Discriminants of the classes, computed from {counted(len(train), 'training image')} of "
        f"{_source(fitted)}. Training images look better separated here than new ones are."
    )
    second = "discriminant 2" if len(set(train.labels)) > 2 else "component 1"  # noqa: PLR2004
    return MapSection(sentence, ("discriminant 1", second)), project


def _two(places: np.ndarray) -> np.ndarray:
    """Return two columns, the second empty if there is only one."""
    return places if places.shape[1] > 1 else np.column_stack([places, np.zeros(len(places))])
