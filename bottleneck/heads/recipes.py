"""What classifiers there are, and how each is fitted on reduced rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

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


class Recipe(Protocol):
    """How a classifier is fitted."""

    @property
    def penalised(self) -> bool:
        """Whether it has a penalty to choose."""

    @property
    def margins(self) -> bool:
        """Whether its scores are margins or distances, which a softmax does not fit as they are."""

    def fit(
        self,
        reduction: Reduction,
        targets: np.ndarray,
        counts: np.ndarray,
        grid: Sequence[float | None],
    ) -> Iterator[Fitted]:
        """Fit for every `C` on every fold.

        Parameters
        ----------
        reduction : Reduction
            n rows.
        targets : np.ndarray
            int of shape (n,), from 0 on; every class is in every fold.
        counts : np.ndarray
            Shape (n, f): what each row counts in each fold.
        grid : sequence
            Values of `C`; one None for a recipe without.
        """


@dataclass(frozen=True)
class _Iterated:
    """Minimised by `bottleneck.solvers.path.fit_path`."""

    loss: str
    margins: bool
    penalised = True

    def fit(
        self,
        reduction: Reduction,
        targets: np.ndarray,
        counts: np.ndarray,
        grid: Sequence[float | None],
    ) -> Iterator[Fitted]:
        """As `Recipe.fit`."""
        from bottleneck.solvers.path import fit_path  # noqa: PLC0415 - it loads torch

        chosen = [C for C in grid if C is not None]
        for point in fit_path(reduction.rows, targets, counts, chosen, self.loss):
            pairs = zip(point.weight, point.bias, strict=True)
            affine = [self._for_both(weight, bias) for weight, bias in pairs]
            yield Fitted(point.C, affine, bool(point.converged.all()))

    def _for_both(self, weight: np.ndarray, bias: np.ndarray) -> Affine:
        """Return scores for two classes where one tells them apart."""
        if len(weight) > 1:
            return weight, bias
        # The softmax of (-s / 2, s / 2) is the sigmoid of s.
        half = np.array([-0.5, 0.5] if self.loss == "softmax" else [-1.0, 1.0])
        return half[:, None] * weight, half * bias


class _Ridge:
    penalised, margins = True, True

    def fit(
        self,
        reduction: Reduction,
        targets: np.ndarray,
        counts: np.ndarray,
        grid: Sequence[float | None],
    ) -> Iterator[Fitted]:
        """As `Recipe.fit`."""
        chosen = [C for C in grid if C is not None]
        folds = [fit_ridge(reduction.rows, targets, fold, chosen) for fold in counts.T]
        for place, C in enumerate(chosen):
            yield Fitted(C, [fold[place] for fold in folds], converged=True)


class _LDA:
    penalised, margins = False, False

    def fit(
        self,
        reduction: Reduction,
        targets: np.ndarray,
        counts: np.ndarray,
        grid: Sequence[float | None],
    ) -> Iterator[Fitted]:
        """As `Recipe.fit`."""
        n_features = len(reduction.mean)
        folds = [fit_lda(reduction.rows, targets, fold, n_features) for fold in counts.T]
        yield from (Fitted(C, folds, converged=True) for C in grid)


class _Centroid:
    penalised, margins = False, True

    def fit(
        self,
        reduction: Reduction,
        targets: np.ndarray,
        counts: np.ndarray,
        grid: Sequence[float | None],
    ) -> Iterator[Fitted]:
        """As `Recipe.fit`."""
        folds = [fit_centroids(reduction.rows, targets, fold) for fold in counts.T]
        yield from (Fitted(C, folds, converged=True) for C in grid)


RECIPES: Mapping[str, Recipe] = {
    "softmax": _Iterated("softmax", margins=False),
    "logreg": _Iterated("logistic", margins=False),
    "svm": _Iterated("squared_hinge", margins=True),
    "ridge": _Ridge(),
    "lda": _LDA(),
    "centroid": _Centroid(),
}
"""Classifiers by name: multinomial and one-vs-rest logistic regression, linear SVM with squared
hinge, ridge regression, linear discriminants, and the nearest class mean."""
