"""Linear classifiers with a closed-form solution, on arrays.

Everything is solved in float64, with as many unknowns per class as the reduced rows have columns;
ridge regression with as many as there are rows to fit on, where these are fewer.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from bottleneck.solvers.reduction import Reduction

if TYPE_CHECKING:
    from bottleneck.solvers.path import PathPoint

__all__ = [
    "Solution",
    "fit_centroids",
    "fit_lda",
    "fit_ridge",
    "solutions_of",
    "solve_shifted",
]

Solution = tuple[np.ndarray, np.ndarray, bool]
"""Weight (k, r) and bias (k,), and whether the solver converged."""
_MANY = 5
"""So many values of `C` share a tridiagonal form, which takes as long as five Cholesky factors."""
_LEAST_WIDTH = 3
_LWORK = 64
"""Columns in a block of LAPACK's reflectors."""


def fit_ridge(
    reduction: Reduction, labels: np.ndarray, weights: np.ndarray, grid: Sequence[float]
) -> list[Solution]:
    """Fit targets of 1 and -1 for each class by regularised least squares, for every `C`.

    The objective is C * sum_i c_i (y_i - w x_i - b)^2 + |w|^2 / 2, as for scikit-learn's
    `RidgeClassifier` with alpha = 1 / (2 C).

    Parameters
    ----------
    reduction : Reduction
        n rows of r columns.
    labels : np.ndarray
        int of shape (n,), from 0 on, without gaps; or bool of shape (n, k), one column per class.
    weights : np.ndarray
        Sample weights of shape (n,); or (n, k), for each class.
    grid : sequence of float
        Values of `C`, above 0.

    Returns
    -------
    list of Solution
        For each `C`.
    """
    given = labels if labels.ndim > 1 else labels[:, None] == np.arange(labels.max() + 1)
    if weights.ndim > 1:
        columns = zip(given.T[..., None], weights.T, strict=True)
        each = [fit_ridge(reduction, column, own, grid) for column, own in columns]
        by_C = [list(zip(*solutions, strict=True)) for solutions in zip(*each, strict=True)]
        return [(np.concatenate(weight), np.concatenate(bias), True) for weight, bias, _ in by_C]
    fit = weights > 0
    rows, targets, weights = reduction.rows[fit], 2.0 * given[fit] - 1, weights[fit]
    centre = np.average(rows, axis=0, weights=weights).astype(np.float64)
    level = np.average(targets, axis=0, weights=weights)
    roots = np.sqrt(weights)[:, None]
    weighted, wanted = (rows - centre) * roots, (targets - level) * roots
    shifts = [1 / (2 * C) for C in grid]
    found: Iterator[np.ndarray]
    if len(weighted) < weighted.shape[1]:
        found = map(weighted.T.__matmul__, solve_shifted(weighted @ weighted.T, wanted, shifts))
    else:
        found = solve_shifted(weighted.T @ weighted, weighted.T @ wanted, shifts)
    return [(own.T, level - own.T @ centre, True) for own in found]


def solve_shifted(
    products: np.ndarray, sums: np.ndarray, shifts: Sequence[float]
) -> Iterator[np.ndarray]:
    """Yield the solution x of (products + shift I) x = sums for each shift.

    Many shifts share a tridiagonal form, Q' products Q (Golub and Van Loan 2013, Matrix
    Computations, section 8.3.1), which costs as much as a few Cholesky factors.

    Parameters
    ----------
    products : np.ndarray
        Symmetric, without negative eigenvalues, of shape (r, r); it may be overwritten.
    sums : np.ndarray
        Shape (r, k).
    shifts : sequence of float
        Above 0.

    Yields
    ------
    np.ndarray
        Shape (r, k).
    """
    from scipy.linalg import cho_factor, cho_solve, lapack, solveh_banded

    width, diagonal = len(products), products.diagonal().copy()
    if len(shifts) < _MANY or width < _LEAST_WIDTH:
        for shift in shifts:
            np.fill_diagonal(products, diagonal + shift)
            yield cho_solve(cho_factor(products, lower=True), sums)
        return
    lwork = _LWORK * width
    form, diagonal, beside, tau, _ = lapack.dsytrd(products, lower=1, lwork=lwork)
    # Q leaves the first row as it is, and is a product of reflectors, as of a QR factorization.
    turn = partial(lapack.dormqr, "L", a=np.asfortranarray(form[1:, :-1]), tau=tau, lwork=lwork)
    inside, banded = np.array(sums, np.float64), np.zeros((2, width))
    inside[1:], banded[1, :-1] = turn("T", c=inside[1:])[0], beside
    solved = []
    for shift in shifts:
        banded[0] = diagonal + shift
        solved.append(solveh_banded(banded, inside, lower=True))
    found = np.hstack(solved)
    found[1:] = turn("N", c=found[1:])[0]
    yield from np.hsplit(found, len(shifts))


def fit_lda(
    reduction: Reduction,
    labels: np.ndarray,
    weights: np.ndarray,
    grid: object,  # noqa: ARG001 - there is no `C`
) -> list[Solution]:
    """Fit linear discriminant analysis with a shrunk covariance shared by all classes.

    The pooled within-class covariance is shrunk towards a multiple of the identity, by the amount
    of Ledoit and Wolf (2004, A Well-Conditioned Estimator for Large-Dimensional Covariance
    Matrices, section 3). The scores are log posteriors up to a constant.

    Parameters
    ----------
    reduction, weights
        As for `fit_ridge`, with weights of shape (n,).
    labels : np.ndarray
        int of shape (n,), from 0 on, without gaps.
    grid : object
        Not used.

    Returns
    -------
    list of Solution
        The only one.
    """
    from scipy.linalg import cho_factor, cho_solve

    fit, n_features = weights > 0, reduction.n_features  # the size of the whole covariance
    rows, labels, weights = reduction.rows[fit], labels[fit], weights[fit]
    means, shares = _class_means(rows, labels, weights)
    total = weights.sum()
    apart = rows - means[labels]
    squares = (apart**2).sum(axis=1)
    apart *= np.sqrt(weights / total)[:, None]
    covariance = apart.T @ apart
    mean_variance = np.trace(covariance) / n_features or 1.0
    sum_of_squares = (covariance**2).sum()
    noise = (weights @ squares**2 / total - sum_of_squares) / len(rows)
    spread = sum_of_squares - n_features * mean_variance**2
    shrinkage = min(noise / spread, 1.0) if spread > 0 else 1.0
    covariance *= 1 - shrinkage
    # Keeps a singular covariance solvable: class means may lie where nothing varies.
    least = np.finfo(np.float64).eps * len(covariance)
    covariance[np.diag_indices_from(covariance)] += max(shrinkage, least) * mean_variance
    weight = cho_solve(cho_factor(covariance, lower=True), means.T).T
    return [(weight, np.log(shares) - (weight * means).sum(axis=1) / 2, True)]


def fit_centroids(
    reduction: Reduction,
    labels: np.ndarray,
    weights: np.ndarray,
    grid: object,  # noqa: ARG001 - there is no `C`
) -> list[Solution]:
    """Score each class by minus half the squared distance to its mean, up to a constant.

    Parameters
    ----------
    reduction, labels, weights, grid
        As for `fit_lda`.

    Returns
    -------
    list of Solution
        The only one.
    """
    means, _ = _class_means(reduction.rows, labels, weights)
    return [(means, -(means**2).sum(axis=1) / 2, True)]


def solutions_of(point: "PathPoint", loss: str, classes: int) -> list[Solution]:
    """Return what a solver found for each fold, with a score for each class also for two classes.

    Parameters
    ----------
    point : PathPoint
        The solutions of all folds.
    loss : str
        ``softmax``, ``logistic`` or ``squared_hinge``.
    classes : int
        Number of classes.

    Returns
    -------
    list of Solution
        For each fold.
    """
    weight, bias = point.weight, point.bias
    if classes > bias.shape[1]:
        # The softmax of (-s / 2, s / 2) is the sigmoid of s.
        both = np.array([-0.5, 0.5] if loss == "softmax" else [-1.0, 1.0])
        weight, bias = both[:, None] * weight, both * bias
    return list(zip(weight, bias, point.converged, strict=True))


def _class_means(
    rows: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of each class, and its share of the weights."""
    members = (labels[:, None] == np.arange(labels.max() + 1)) * weights[:, None]
    totals = members.sum(axis=0)
    return (members.T @ rows.astype(np.float64)) / totals[:, None], totals / totals.sum()
