"""What classifiers there are, and how each is fitted on reduced rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from bottleneck.solvers import Reduction
from bottleneck.solvers.closed_form import Affine, fit_centroids, fit_lda, fit_ridge

__all__ = ["C_GRID", "RECIPES", "Fitted", "Recipe"]

C_GRID = tuple(float(f"1e{exponent}") for exponent in range(-6, 2))


class Fitted(NamedTuple):
    """Solutions for one value of the penalty.

    Attributes
    ----------
    C : float or None
        Inverse strength of the penalty; None for a recipe without one.
    affine : list of (np.ndarray, np.ndarray)
        Weight (k, r) and bias (k,) of each fold, also for two classes.
    converged : bool
        Whether all are what was looked for.
    """

    C: float | None
    affine: list[Affine]
    converged: bool


@dataclass(frozen=True)
class Recipe:
    """How a classifier is fitted.

    Attributes
    ----------
    fit : callable
        Fits on every fold for every `C`. Takes a `Reduction` of n rows, their targets (int of shape
        (n,), from 0 on; every class is in every fold), what each row counts in each fold (shape
        (n, f)), and the values of `C`, of which there is one, None, for a recipe without.
    penalised : bool
        Whether it has a penalty to choose.
    margins : bool
        Whether its scores are margins or distances, which a softmax does not fit as they are.
    """

    fit: Callable[[Reduction, np.ndarray, np.ndarray, Sequence[Any]], Iterator[Fitted]]
    penalised: bool
    margins: bool


def _iterated(
    loss: str, reduction: Reduction, targets: np.ndarray, counts: np.ndarray, grid: Sequence[float]
) -> Iterator[Fitted]:
    from bottleneck.solvers.path import fit_path  # noqa: PLC0415 - it loads torch

    for point in fit_path(reduction.rows, targets, counts, grid, loss):
        pairs = zip(point.weight, point.bias, strict=True)
        affine = [_for_both(weight, bias, loss) for weight, bias in pairs]
        yield Fitted(point.C, affine, bool(point.converged.all()))


def _for_both(weight: np.ndarray, bias: np.ndarray, loss: str) -> Affine:
    """Return scores for two classes where one tells them apart."""
    if len(weight) > 1:
        return weight, bias
    # The softmax of (-s / 2, s / 2) is the sigmoid of s.
    half = np.array([-0.5, 0.5] if loss == "softmax" else [-1.0, 1.0])
    return half[:, None] * weight, half * bias


def _ridge(
    reduction: Reduction, targets: np.ndarray, counts: np.ndarray, grid: Sequence[float]
) -> Iterator[Fitted]:
    folds = [fit_ridge(reduction.rows, targets, fold, grid) for fold in counts.T]
    for place, C in enumerate(grid):
        yield Fitted(C, [fold[place] for fold in folds], converged=True)


def _lda(
    reduction: Reduction, targets: np.ndarray, counts: np.ndarray, _grid: Sequence[None]
) -> Iterator[Fitted]:
    n_features = len(reduction.mean)
    folds = [fit_lda(reduction.rows, targets, fold, n_features) for fold in counts.T]
    yield Fitted(None, folds, converged=True)


def _centroid(
    reduction: Reduction, targets: np.ndarray, counts: np.ndarray, _grid: Sequence[None]
) -> Iterator[Fitted]:
    folds = [fit_centroids(reduction.rows, targets, fold) for fold in counts.T]
    yield Fitted(None, folds, converged=True)


RECIPES: Mapping[str, Recipe] = {
    "softmax": Recipe(partial(_iterated, "softmax"), penalised=True, margins=False),
    "logreg": Recipe(partial(_iterated, "logistic"), penalised=True, margins=False),
    "svm": Recipe(partial(_iterated, "squared_hinge"), penalised=True, margins=True),
    "ridge": Recipe(_ridge, penalised=True, margins=True),
    "lda": Recipe(_lda, penalised=False, margins=False),
    "centroid": Recipe(_centroid, penalised=False, margins=True),
}
"""Classifiers by name: multinomial and one-vs-rest logistic regression, linear SVM with squared
hinge, ridge regression, linear discriminants, and the nearest class mean."""
