"""Heads as a scikit-learn classifier."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from bottleneck.heads.fit import fit_rows
from bottleneck.heads.prepare import recipe_of
from bottleneck.settings import MLPSettings

__all__ = ["HeadClassifier"]


class HeadClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Fit a head within scikit-learn's pipelines and searches.

    Labels are scikit-learn's: of any type, or an indicator matrix for several classes per row. The
    fitted `Head`, the same as from `fit-head`, is in `head_`.

    Parameters
    ----------
    clf, C, n_neighbors, balanced, standardize, power, normalize
        As for `fit_head`; hyperparameters not given are chosen by cross-validation.
    widths : sequence of int, optional
        Numbers of columns of joined layers, in order, which are standardised and normalised apart,
        as `fit_head` does; by default all columns are those of one layer. See
        `BottleneckFeatures.widths`.
    random_state : int, optional
        Seed of the folds and of network training; None means 0.

    Attributes
    ----------
    classes_ : np.ndarray
        Class labels of shape (k,).
    n_features_in_ : int
        Number of features d.
    head_ : Head
        The fitted head.
    """

    def __init__(
        self,
        clf: str | MLPSettings = "softmax",
        *,
        C: float | None = None,
        n_neighbors: int | None = None,
        balanced: bool = False,
        standardize: bool = True,
        power: float = 1.0,
        normalize: str = "none",
        widths: Sequence[int] | None = None,
        random_state: int | None = 0,
    ) -> None:
        self.clf = clf
        self.C = C
        self.n_neighbors = n_neighbors
        self.balanced = balanced
        self.standardize = standardize
        self.power = power
        self.normalize = normalize
        self.widths = widths
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> Self:
        """Fit a head.

        Parameters
        ----------
        X : array-like
            Shape (n_samples, d).
        y : array-like
            Shape (n_samples,), or (n_samples, k) of 0 and 1.
        sample_weight : array-like, optional
            Shape (n_samples,).
        groups : array-like, optional
            Shape (n_samples,): rows of one group stay in one fold of the cross-validation.

        Returns
        -------
        HeadClassifier
            The estimator.

        Raises
        ------
        UnknownNameError, UsageError, DataError
            As for `fit_head`.
        """
        X, y = validate_data(
            self, X, y, multi_output=True, dtype=[np.float32, np.float64], ensure_min_samples=2
        )
        check_classification_targets(y)
        if type_of_target(y) == "multilabel-indicator":
            self.classes_, codes = np.arange(y.shape[1]), y.astype(bool)
        else:
            self.classes_, codes = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        options = self.get_params(deep=False)
        options["seed"] = options.pop("random_state") or 0
        options["widths"] = options.pop("widths") or ()
        head = fit_rows(X, codes, groups=groups, sample_weight=sample_weight, **options)
        self.head_ = replace(head, classes=tuple(map(str, self.classes_)))
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Return scores (n_samples, k); for two classes, the second score minus the first.

        Parameters
        ----------
        X : array-like
            Features, shape (n_samples, d).

        Returns
        -------
        np.ndarray
            Shape (n_samples, k), or (n_samples,) for two classes.

        Raises
        ------
        NotFittedError
            The classifier has not been fitted.
        ValueError
            The features are not numeric, not finite, or have another length.
        """
        scores = self._scores(X)
        if self.head_.multilabel or len(self.classes_) > 2:  # noqa: PLR2004 - two have one
            return scores
        return np.asarray(scores[:, 1] - scores[:, 0])

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return probabilities (n_samples, k), calibrated if rows were held out during fitting.

        Parameters
        ----------
        X : array-like
            Features, shape (n_samples, d).

        Returns
        -------
        np.ndarray
            Shape (n_samples, k), also for two classes.

        Raises
        ------
        NotFittedError, ValueError
            See `decision_function`.
        """
        scores = self._scores(X)  # first, as it tells what is not fitted
        return self.head_.probabilities(scores)

    def predict(self, X: Any) -> np.ndarray:
        """Return labels of shape (n_samples,), or indicators of shape (n_samples, k).

        Parameters
        ----------
        X : array-like
            Features, shape (n_samples, d).

        Returns
        -------
        np.ndarray
            Labels of the type of `classes_`; indicators are int.

        Raises
        ------
        NotFittedError, ValueError
            See `decision_function`.
        """
        scores = self._scores(X)
        if self.head_.multilabel:
            return (scores > 0).astype(int)
        return np.asarray(self.classes_[scores.argmax(axis=1)])

    def _scores(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float32, np.float64], reset=False)
        return self.head_.decision_function(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = recipe_of(self.clf).multilabel
        return tags
