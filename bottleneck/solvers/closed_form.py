"""Linear classifiers with a closed-form solution, on arrays.

Everything is solved in float64, with as many unknowns per class as the reduced rows have columns.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bottleneck.solvers.reduction import Reduction

if TYPE_CHECKING:
    from bottleneck.solvers.path import PathPoint

__all__ = ["Solution", "fit_centroids", "fit_lda", "fit_ridge", "solutions_of"]

Solution = tuple[np.ndarray, np.ndarray, bool]
"""Weight (k, r) and bias (k,), and whether the solver converged."""


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
    from scipy.linalg import cho_factor, cho_solve

    given = labels if labels.ndim > 1 else labels[:, None] == np.arange(labels.max() + 1)
    if weights.ndim > 1:
        columns = zip(given.T[..., None], weights.T, strict=True)
        each = [fit_ridge(reduction, column, own, grid) for column, own in columns]
        by_C = [list(zip(*solutions, strict=True)) for solutions in zip(*each, strict=True)]
        return [(np.concatenate(weight), np.concatenate(bias), True) for weight, bias, _ in by_C]
    rows, targets = reduction.rows, 2.0 * given - 1
    centre = np.average(rows, axis=0, weights=weights).astype(np.float64)
    level = np.average(targets, axis=0, weights=weights)
    roots = np.sqrt(weights)[:, None]
    weighted = (rows - centre) * roots
    products, sums = weighted.T @ weighted, weighted.T @ ((targets - level) * roots)
    diagonal = products.diagonal().copy()
    fitted = []
    for C in grid:
        np.fill_diagonal(products, diagonal + 1 / (2 * C))
        weight = cho_solve(cho_factor(products, lower=True), sums).T
        fitted.append((weight, level - weight @ centre, True))
    return fitted


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

    rows, n_features = reduction.rows, reduction.n_features  # the size of the whole covariance
    means, shares = _class_means(rows, labels, weights)
    total = weights.sum()
    apart = rows - means[labels]
    squares = (apart**2).sum(axis=1)
    covariance = (apart * weights[:, None]).T @ apart / total
    mean_variance = np.trace(covariance) / n_features or 1.0
    sum_of_squares = (covariance**2).sum()
    noise = (weights @ squares**2 / total - sum_of_squares) / (weights > 0).sum()
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
