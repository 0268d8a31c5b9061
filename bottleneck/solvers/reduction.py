"""Reduce features to the fewest columns that a linear head needs, without approximation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from bottleneck.solvers.threads import SMALL

__all__ = [
    "LEAST_DIVISOR",
    "Reduction",
    "column_moments",
    "divisors",
    "is_reducible",
    "reduce_rows",
]

_BLOCK_BYTES = 64 * 2**20
_ROWS = 256
LEAST_DIVISOR = 0.5
"""Least divisor of a feature, as a fraction of the median standard deviation in its layer."""


class Parted(Protocol):
    """Rows whose columns are read part by part, as they do not fit into memory together."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and number of features."""

    @property
    def fits_by_part(self) -> bool:
        """Whether each part fits into memory, and so do the inner products of the rows."""

    def parts(self) -> Iterator[np.ndarray]:
        """Yield consecutive columns, of shape (n, width) and any float type."""

    def __getitem__(self, rows: np.ndarray) -> "Parted":
        """Return some rows."""


Columns: TypeAlias = np.ndarray | Parted
"""Features of shape (n, d)."""


@dataclass(frozen=True)
class Reduction:
    """Standardised features in at most as many columns as there are rows.

    The weights of every L2-penalised classifier lie in the span of the rows that it is fitted on
    (the representer theorem: Schölkopf, Herbrich and Smola 2001, A Generalized Representer
    Theorem). So for every penalty, loss and subset of the rows, a classifier fitted on `rows` has
    the same scores as one fitted on the features, and `lift` turns its weights into weights of the
    features.

    Attributes
    ----------
    rows : np.ndarray
        Shape (n, r), float32, or float64 if small; their inner products are those of the
        standardised features.
    mean, scale : np.ndarray
        Shape (d,): subtracted from the features, and their divisor.
    n_features : int
        Number of the features, d.
    pivots : np.ndarray or None
        Indices of r rows that span all rows; `rows` in this order are lower triangular. None if
        `rows` are the standardised features themselves.
    """

    rows: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    n_features: int
    pivots: np.ndarray | None

    def lift(
        self, weight: np.ndarray, bias: np.ndarray, X: Columns
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the weights that give the same scores on raw features.

        Parameters
        ----------
        weight : np.ndarray
            Shape (k, r), on `rows`.
        bias : np.ndarray
            Shape (k,).
        X : np.ndarray or Parted
            The features that were reduced, of shape (n, d).

        Returns
        -------
        weight, bias : np.ndarray
            float64 of shapes (k, d) and (k,).
        """
        from scipy.linalg import solve_triangular

        lifted = weight.astype(np.float64)
        if self.pivots is not None:
            # rows[pivots] = L, and the pivots' features are L Q' with orthonormal Q: weight Q' =
            # weight L^-1 (L Q').
            lower = self.rows[self.pivots].astype(np.float64)
            shares = solve_triangular(lower, lifted.T, lower=True, trans="T").T
            parts = [
                shares @ ((block - self.mean[columns]) / self.scale[columns])
                for layer, part in _layers(X[self.pivots])
                for columns, block in _blocks(part, layer.start)
            ]
            lifted = np.hstack(parts)
        folded = lifted / self.scale
        return folded, bias - folded @ self.mean


def reduce_rows(
    X: Columns,
    train: np.ndarray | None = None,
    *,
    standardize: bool = True,
    widths: Sequence[int] = (),
) -> Reduction:
    """Standardise features and reduce them to as few columns as represent them exactly.

    With more features than rows, the Gram matrix of the standardised features is summed in float64
    over blocks of columns, where layers are joined over one layer after the other, and factored by
    a Cholesky decomposition with complete pivoting (Higham 2002, Accuracy and Stability of
    Numerical Algorithms, section 10.3), which also drops linearly dependent rows. That takes n^2 d
    + n^3 / 3 multiply-adds.

    Parameters
    ----------
    X : np.ndarray or Parted
        Shape (n, d), of any float type.
    train, standardize, widths
        As for `column_moments`. The mean is always subtracted; it changes no score, because the
        intercept is not penalised.

    Returns
    -------
    Reduction
    """
    from scipy.linalg.blas import dsyrk
    from scipy.linalg.lapack import dpstrf

    n_samples, n_features = X.shape
    mean, scale = np.empty(n_features), np.empty(n_features)

    def standardised() -> Iterator[tuple[slice, np.ndarray]]:
        for layer, part in _layers(X, widths):
            mean[layer], scale[layer] = _moments(part, train, standardize=standardize)
            for columns, block in _blocks(part, layer.start):
                centred = np.subtract(block, mean[columns], out=block)
                yield columns, np.divide(centred, scale[columns], out=centred)

    if n_features <= n_samples:
        rows = np.empty(X.shape, _dtype(n_samples * n_features))
        for columns, block in standardised():
            rows[:, columns] = block
        return Reduction(rows, mean, scale, n_features, None)
    gram = np.zeros((n_samples, n_samples), order="F")
    for _, block in standardised():
        gram = dsyrk(1.0, block.T, beta=1.0, c=gram, trans=1, lower=1, overwrite_c=1)
    # A held-out row may be far larger than all training rows, and must not dominate the pivots.
    fitted = gram.diagonal() if train is None else gram.diagonal()[train > 0]
    least = n_samples * np.finfo(np.float64).eps * fitted.max()
    factor, pivots, rank, _ = dpstrf(gram, tol=least, lower=1, overwrite_a=1)
    pivots = pivots - 1  # LAPACK counts from 1
    rows = np.zeros((n_samples, rank), _dtype(n_samples * rank))
    for start in range(0, n_samples, _ROWS):  # what lies above the diagonal is no part of it
        stop = start + _ROWS
        rows[pivots[start:stop], :stop] = np.tril(factor[start:stop, : min(stop, rank)], start)
    return Reduction(rows, mean, scale, n_features, pivots[:rank])


def is_reducible(X: Columns) -> bool:
    """Return whether features can be reduced: in memory, or layer by layer if they are joined.

    Parameters
    ----------
    X : np.ndarray or Parted
        Shape (n, d).

    Returns
    -------
    bool
    """
    return isinstance(X, np.ndarray) or X.fits_by_part


def column_moments(
    X: np.ndarray,
    train: np.ndarray | None = None,
    *,
    standardize: bool = True,
    widths: Sequence[int] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and divisor of each feature in `reduce_rows`, of shape (d,) each.

    Parameters
    ----------
    X : np.ndarray
        Shape (n, d), of any float type.
    train : np.ndarray, optional
        Shape (n,): the rows whose mean and standard deviation are used, as a boolean mask or as
        sample weights; all by default.
    standardize : bool
        Divide each feature, see `divisors`.
    widths : sequence of int
        Numbers of columns of joined layers, in order; empty for a single one.

    Returns
    -------
    mean : np.ndarray
        float64 of shape (d,).
    scale : np.ndarray
        float64 of shape (d,), 1 without `standardize`.
    """
    layers = (part for _, part in _layers(X, widths))
    found = [_moments(part, train, standardize=standardize) for part in layers]
    mean, scale = map(np.concatenate, zip(*found, strict=True))
    return mean, scale


def divisors(mean: np.ndarray, deviation: np.ndarray, widths: Sequence[int] = ()) -> np.ndarray:
    """Return what standardised features are divided by: their standard deviation, or a bit more.

    The divisor is at least half the median standard deviation of the features of a layer. Features
    that are zero for nearly all images would otherwise become huge for the others, as large as all
    the rest together. The same is done with genes that are hardly expressed (Tibshirani et al.
    2002, Diagnosis of Multiple Cancer Types by Shrunken Centroids of Gene Expression, who add the
    median).

    Parameters
    ----------
    mean, deviation : np.ndarray
        Mean and standard deviation of each feature, of shape (d,).
    widths : sequence of int
        Numbers of columns of joined layers, in order; empty for a single one.

    Returns
    -------
    np.ndarray
        float64 of shape (d,); 1 if all features of a layer are constant.
    """
    varies = deviation > 10 * np.finfo(np.float64).eps * np.abs(mean)  # else it is rounding error
    found, end = np.ones(len(mean)), 0
    for width in widths or (len(mean),):
        own, end = slice(end, end + width), end + width
        if varies[own].any():
            least = LEAST_DIVISOR * np.median(deviation[own][varies[own]])
            found[own] = np.maximum(deviation[own], least)
    return found


def _dtype(size: int) -> type[np.floating]:
    return np.float64 if size <= SMALL else np.float32


def _layers(X: Columns, widths: Sequence[int] = ()) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the columns of each layer, which are read only once."""
    ends = np.cumsum(widths, dtype=int)[:-1]
    end = 0
    for part in np.split(X, ends, axis=1) if isinstance(X, np.ndarray) else X.parts():
        end += part.shape[1]
        yield slice(end - part.shape[1], end), part


def _blocks(part: np.ndarray, first: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield blocks of the columns from the given one on, as float64 of at most `_BLOCK_BYTES`."""
    width = max(1, _BLOCK_BYTES // (8 * max(1, part.shape[0])))
    for start in range(0, part.shape[1], width):
        values = part[:, start : start + width].astype(np.float64)
        yield slice(first + start, first + start + values.shape[1]), values


def _moments(
    part: np.ndarray, train: np.ndarray | None, *, standardize: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and divisor of each column of a layer."""
    mean, deviation = np.zeros(part.shape[1]), np.zeros(part.shape[1])
    fit = slice(None) if train is None else train > 0
    sample_weight = None if train is None or train.dtype == bool else train[fit]
    for columns, values in _blocks(part, 0):
        own = values[fit]
        mean[columns] = np.average(own, axis=0, weights=sample_weight)
        if standardize:
            squares = np.square(np.subtract(own, mean[columns], out=own), out=own)
            deviation[columns] = np.sqrt(np.average(squares, axis=0, weights=sample_weight))
    return mean, divisors(mean, deviation) if standardize else np.ones(part.shape[1])
