"""Novelty: how far an image is from those that a head was fitted on, as a percentile."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from bottleneck.heads.adjust import Adjust

if TYPE_CHECKING:
    from bottleneck.heads.problem import Rows

__all__ = ["Novelty", "fit_novelty"]

_COMPONENTS = 64
_MOST_ROWS = 10_000
_MOST_VALUES = 2**24
"""Rows are drawn at random if there are more, or more values in them."""
_BYTES = 32
"""Memory per value that is drawn from streamed rows, copies included."""
_LEAST_VALUES = 2**19
"""Values that are drawn from streamed rows whatever their memory."""
_STORED = 2**20
"""Values of all components together."""
_QUANTILES = 1001
_FOLDS = 10
_FEWEST = 30
"""Validation images whose distances suffice; with fewer, those of folds are taken."""
_PASSES = 3
_AT_ONCE = 2**24
"""Distances that are computed together."""


@dataclass(frozen=True, eq=False)
class Novelty:
    """Distances of features to the nearest ones that a head was fitted on (Sun et al. 2022).

    Features are adjusted (`Adjust`, with a power of 0.5 and the norm of each layer), and distances
    computed on their first principal components. Out-of-Distribution Detection with Deep Nearest
    Neighbors (ICML) has the method, without these components.

    Attributes
    ----------
    widths : np.ndarray
        int64: number of features of each joined layer, or of the only one.
    mean : np.ndarray
        Shape (d,).
    components : np.ndarray
        Shape (r, d): principal components, of length 1.
    rows : np.ndarray
        Shape (m, r): images that the head was fitted on, float16.
    quantiles : np.ndarray
        Shape (q,): distances of held-out images, at equal steps from the nearest to the farthest.
    """

    widths: np.ndarray
    mean: np.ndarray
    components: np.ndarray
    rows: np.ndarray
    quantiles: np.ndarray

    def distances(self, X: np.ndarray) -> np.ndarray:
        """Return the distance of each row to the nearest that the head was fitted on, shape (n,).

        Parameters
        ----------
        X : np.ndarray
            Features of shape (n, d), as the cache has them.

        Returns
        -------
        np.ndarray
        """
        adjusted = Adjust(0.5, "l2", tuple(self.widths.tolist()))(X)
        placed = ((adjusted - self.mean) @ self.components.T).astype(np.float32)
        others = self.rows.astype(np.float32)
        squares = np.einsum("ij,ij->i", others, others)
        found, step = [np.empty(0, np.float32)], max(1, _AT_ONCE // len(others))
        for start in range(0, len(placed), step):
            some = placed[start : start + step]
            least = (squares - 2 * some @ others.T).min(axis=1)
            found.append(least + np.einsum("ij,ij->i", some, some))
        return np.asarray(np.sqrt(np.concatenate(found).clip(0)))

    def percentiles(self, X: np.ndarray) -> np.ndarray:
        """Return how many per cent of held-out images are nearer than each row, shape (n,).

        Parameters
        ----------
        X : np.ndarray
            Features of shape (n, d), as the cache has them.

        Returns
        -------
        np.ndarray
            From 0 to 100; about uniform for images like those that the head was fitted on.
        """
        shares = np.linspace(0, 100, len(self.quantiles))
        return np.asarray(np.interp(self.distances(X), self.quantiles, shares))

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], n_features: int) -> Self:
        """Return what arrays describe.

        Parameters
        ----------
        arrays : mapping of str to np.ndarray
            As in `arrays`.
        n_features : int
            Number of features, d.

        Returns
        -------
        Novelty

        Raises
        ------
        ValueError
            An array is missing, unknown, not finite, or of another shape or type.
        """
        names = [each.name for each in fields(cls)]
        if sorted(arrays) != sorted(names):
            raise ValueError(
                f"novelty has {', '.join(sorted(arrays))}, expected {', '.join(names)}"
            )
        found = cls(**arrays)
        for name, array in arrays.items():
            kind = "i" if name == "widths" else "f"
            dimensions = 2 if name in {"components", "rows"} else 1
            if array.dtype.kind != kind or array.ndim != dimensions or not array.size:
                raise ValueError(f"{name} of novelty has the shape {array.shape} of {array.dtype}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} of novelty contains nan or inf, expected finite numbers")
        sizes = {found.widths.sum(), len(found.mean), found.components.shape[1], n_features}
        if len(sizes) > 1 or found.widths.min() < 1 or len(found.components) != found.rows.shape[1]:
            raise ValueError(f"the arrays of novelty do not fit 'n_features' {n_features}")
        if (np.diff(found.quantiles) < 0).any():
            raise ValueError("quantiles of novelty must ascend")
        return found


def fit_novelty(
    X: "Rows",
    groups: np.ndarray,
    *,
    widths: tuple[int, ...] = (),
    held: "Rows | None" = None,
    fewest: int = _FEWEST,
    seed: int = 0,
) -> Novelty | None:
    """Describe where features are, and how far held-out images are from them.

    Distances are those of validation images, or, with fewer than `fewest` of them, of each tenth of
    the images to the others. Of more than 10,000 images, or 16 million values, some are drawn.

    Parameters
    ----------
    X : np.ndarray or StreamedRows
        Unaugmented rows that a head was fitted on, shape (n, d).
    groups : np.ndarray
        Shape (n,): rows of one group are held out together.
    widths : tuple of int
        Numbers of columns of joined layers; empty for a single one.
    held : np.ndarray or StreamedRows, optional
        Rows that neither the head nor its network was fitted on, shape (m, d).
    fewest : int
        Number of these that suffice.
    seed : int
        Seed of the rows that are drawn, and of the folds.

    Returns
    -------
    Novelty or None
        None if all rows are of one group.
    """
    generator, width = np.random.default_rng(seed), X.shape[1]
    own = widths or (width,)
    rows = _drawn(X, generator)
    values, codes = _read(X, rows), np.unique(groups[rows], return_inverse=True)[1]
    if codes.max(initial=0) < 1:
        return None
    adjusted = Adjust(0.5, "l2", own)(values)
    whole = _described(adjusted, own, generator)
    if held is not None and len(held) >= fewest:
        distances = whole.distances(_read(held, _drawn(held, generator)))
    else:
        fold_of = generator.permutation(codes.max() + 1)[codes] % _FOLDS
        parts = []
        for fold in np.unique(fold_of):
            others = _described(adjusted[fold_of != fold], own, generator)
            parts.append(others.distances(values[fold_of == fold]))
        distances = np.concatenate(parts)
    steps = np.linspace(0, 1, min(_QUANTILES, len(distances)))
    return replace(whole, quantiles=np.quantile(distances, steps).astype(np.float32))


def _drawn(X: "Rows", generator: np.random.Generator) -> np.ndarray:
    """Return the indices of as many rows as are used, in order."""
    most = _MOST_VALUES
    if not isinstance(X, np.ndarray):
        most = min(most, max(_LEAST_VALUES, X.memory // _BYTES))
    rows = max(2, min(_MOST_ROWS, most // X.shape[1]))
    return np.sort(generator.permutation(len(X))[:rows])


def _read(X: "Rows", rows: np.ndarray) -> np.ndarray:
    found = X[rows]
    return np.asarray(found if isinstance(found, np.ndarray) else found.read(), np.float32)


def _described(
    adjusted: np.ndarray, widths: tuple[int, ...], generator: np.random.Generator
) -> Novelty:
    """Return adjusted rows on their principal components, without distances of others."""
    from sklearn.utils.extmath import randomized_svd

    number, width = adjusted.shape
    mean = adjusted.mean(axis=0)
    centred = adjusted - mean
    count = max(1, min(_COMPONENTS, _STORED // width, number // 2, width))
    seed = int(generator.integers(2**31))
    _, _, components = randomized_svd(centred, count, n_iter=_PASSES, random_state=seed)
    rows = (centred @ components.T).astype(np.float16)
    return Novelty(np.array(widths), mean, components, rows, np.zeros(1, np.float32))
