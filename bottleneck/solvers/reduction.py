"""Features in as few columns as hold all that a linear head can see of them."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

__all__ = ["Reduction", "column_moments", "in_parallel", "reduce_rows", "threads_for"]

_BLOCK_BYTES = 64 * 2**20
_ROWS = 256
_SMALL = 2**20
"""Up to so many numbers are kept in float64, and computed with in one thread: it costs nothing that
could be noticed."""


@dataclass(frozen=True)
class Reduction:
    """Standardised features in at most as many columns as there are rows.

    The weights of every classifier with an L2 penalty lie in the span of the rows that it is fitted
    on (the representer theorem: Schölkopf, Herbrich and Smola 2001, A Generalized Representer
    Theorem). So one that is fitted on `rows` has the scores, for every penalty, loss and subset of
    the rows, of one that is fitted on the features, and `lift` gives its weights for these.

    Attributes
    ----------
    rows : np.ndarray
        Shape (n, r), float32, or float64 where there are few; their inner products are those of the
        standardised features.
    mean, scale : np.ndarray
        Shape (d,): what was subtracted of the features, and what they were divided by.
    pivots : np.ndarray or None
        r rows that span all of them, in whose order `rows` are lower triangular; None where `rows`
        are the standardised features themselves.
    """

    rows: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    pivots: np.ndarray | None

    def lift(
        self, weight: np.ndarray, bias: np.ndarray, X: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what gives the same scores on features as they are.

        Parameters
        ----------
        weight : np.ndarray
            Shape (k, r), on `rows`.
        bias : np.ndarray
            Shape (k,).
        X : np.ndarray
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
                for columns, block in _blocks(X[self.pivots])
            ]
            lifted = np.hstack(parts)
        folded = lifted / self.scale
        return folded, bias - folded @ self.mean


def reduce_rows(
    X: np.ndarray, train: np.ndarray | None = None, *, standardize: bool = True
) -> Reduction:
    """Standardise features and bring them to as few columns as hold them.

    With more features than rows the Gram matrix of the standardised features is summed in float64,
    over blocks of columns, and factored by a Cholesky decomposition with complete pivoting (Higham
    2002, Accuracy and Stability of Numerical Algorithms, section 10.3), which also drops what
    collinear rows have in common. That takes n^2 d + n^3 / 3 multiply-adds.

    Parameters
    ----------
    X : np.ndarray
        Shape (n, d), of any float type.
    train : np.ndarray, optional
        Shape (n,): the rows whose mean and deviation standardise, as bool or by what they count;
        all by default.
    standardize : bool
        Divide each feature by its deviation. The mean is subtracted in any case: with an intercept
        that is not penalised it changes no score.

    Returns
    -------
    Reduction
    """
    from scipy.linalg.blas import dsyrk
    from scipy.linalg.lapack import dpstrf

    n_samples, n_features = X.shape
    moments = np.zeros(n_features), np.ones(n_features)
    blocks = _standardised(X, train, moments, standardize=standardize)
    if n_features <= n_samples:
        rows = np.empty(X.shape, _dtype(X.size))
        for columns, block in blocks:
            rows[:, columns] = block
        return Reduction(rows, *moments, None)
    gram = np.zeros((n_samples, n_samples), order="F")
    for _, block in blocks:
        gram = dsyrk(1.0, block.T, beta=1.0, c=gram, trans=1, lower=1, overwrite_c=1)
    # A row that is not fitted on may be far larger than all that are, and must not swallow them.
    fitted = gram.diagonal() if train is None else gram.diagonal()[train > 0]
    least = n_samples * np.finfo(np.float64).eps * fitted.max()
    factor, pivots, rank, _ = dpstrf(gram, tol=least, lower=1, overwrite_a=1)
    pivots = pivots - 1  # LAPACK counts from 1
    rows = np.zeros((n_samples, rank), _dtype(n_samples * rank))
    for start in range(0, n_samples, _ROWS):  # what lies above the diagonal is no part of it
        stop = start + _ROWS
        rows[pivots[start:stop], :stop] = np.tril(factor[start:stop, : min(stop, rank)], start)
    return Reduction(rows, *moments, pivots[:rank])


def column_moments(
    X: np.ndarray, train: np.ndarray | None = None, *, standardize: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Return what `reduce_rows` subtracts of each feature and divides it by, of shape (d,) each.

    Parameters
    ----------
    X : np.ndarray
        Shape (n, d), of any float type.
    train : np.ndarray, optional
        Shape (n,), as for `reduce_rows`.
    standardize : bool
        Divide each feature by its deviation.

    Returns
    -------
    mean : np.ndarray
        float64 of shape (d,).
    scale : np.ndarray
        float64 of shape (d,), 1 without `standardize`.
    """
    moments = np.zeros(X.shape[1]), np.ones(X.shape[1])
    for _ in _standardised(X, train, moments, standardize=standardize):
        pass
    return moments


def _dtype(size: int) -> type[np.floating]:
    return np.float64 if size <= _SMALL else np.float32


def _blocks(X: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield some columns at a time, as float64 of no more than `_BLOCK_BYTES`."""
    width = max(1, _BLOCK_BYTES // (8 * max(1, len(X))))
    for start in range(0, X.shape[1], width):
        columns = slice(start, start + width)
        yield columns, X[:, columns].astype(np.float64)


def _standardised(
    X: np.ndarray,
    train: np.ndarray | None,
    moments: tuple[np.ndarray, np.ndarray],
    *,
    standardize: bool,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield some columns at a time less their mean, divided by their deviation; note both.

    What rounding leaves of a constant column's deviation is none: it is divided by 1.
    """
    mean, scale = moments
    fit = slice(None) if train is None else train > 0
    counts = None if train is None or train.dtype == bool else train[fit]
    for columns, values in _blocks(X):
        mean[columns] = np.average(values[fit], axis=0, weights=counts)
        centred = np.subtract(values, mean[columns], out=values)
        if standardize:
            deviation = np.sqrt(np.average(centred[fit] ** 2, axis=0, weights=counts))
            noise = 10 * np.finfo(np.float64).eps * np.abs(mean[columns])
            scale[columns] = np.where(deviation <= noise, 1, deviation)
            centred /= scale[columns]
        yield columns, centred


def threads_for(size: int) -> AbstractContextManager[object]:
    """Return a context with one thread where a matrix has no more than a million numbers.

    More would be no faster, and where the machine has other work they wait for each other: that
    made small fits several times slower.

    Parameters
    ----------
    size : int
        How many numbers a matrix has.

    Returns
    -------
    context manager
    """
    return threadpool_limits(1) if size <= _SMALL else nullcontext()


def in_parallel(
    tasks: Iterable[object], jobs: int | None, *, ordered: bool = True
) -> Iterator[Any]:
    """Run tasks that `joblib.delayed` made.

    Parameters
    ----------
    tasks : iterable
        The calls.
    jobs : int or None
        How many run at the same time; None for joblib's default.
    ordered : bool
        Yield results in the order of the tasks, rather than as they come.

    Yields
    ------
    object
        Each task's result; all at the end where joblib's backend cannot do otherwise.
    """
    import joblib

    order = "generator" if ordered else "generator_unordered"
    try:
        parallel = joblib.Parallel(jobs, return_as=order)
    except ValueError:
        parallel = joblib.Parallel(jobs)
    with warnings.catch_warnings():
        # A process that has loaded a large layer may be replaced, which is as it should be.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
        yield from parallel(tasks)
