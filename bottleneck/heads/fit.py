"""Recipes: fit a head on features with scikit-learn."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from bottleneck.errors import DataError, UnknownNameError, UsageError, did_you_mean
from bottleneck.heads.head import Head, probabilities
from bottleneck.solvers import span_basis

__all__ = ["C_GRID", "RECIPES", "fit_head"]

_C_BOUNDS = (1e-10, 1e10)
C_GRID = tuple(float(f"1e{exponent}") for exponent in range(-6, 2))
_FOLDS = 5
_MAX_ITER = 10_000


def _softmax(C: float, seed: int) -> LogisticRegression:
    return LogisticRegression(C=C, max_iter=_MAX_ITER, random_state=seed)


def _logreg(C: float, seed: int) -> OneVsRestClassifier:
    return OneVsRestClassifier(_softmax(C, seed))


def _svm(C: float, seed: int) -> LinearSVC:
    return LinearSVC(C=C, max_iter=_MAX_ITER, random_state=seed, dual="auto")


RECIPES: Mapping[str, Callable[[float, int], Any]] = {
    "softmax": _softmax,
    "logreg": _logreg,
    "svm": _svm,
}
"""Classifiers by name: multinomial and one-vs-rest logistic regression, linear SVM."""


def fit_head(
    X: np.ndarray,
    y: np.ndarray,
    clf: str = "softmax",
    *,
    C: float | None = None,
    groups: Sequence[str] | np.ndarray | None = None,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    source: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Head:
    """Fit a classifier on standardised features and choose `C` on held-out ones.

    `C` is the candidate with the lowest held-out log loss. (The accuracy of a few images has ties
    and, on noise, no preference for a strong penalty.) Held out are five stratified folds of the
    training rows, fewer where a class has fewer images, or the validation rows where they are
    given. Either way the head is then fitted on all training rows, and on them alone. Mean and
    variance come from the rows fitted on.

    Parameters
    ----------
    X : np.ndarray
        Shape (n_samples, d).
    y : np.ndarray
        Labels of shape (n_samples,).
    clf : str
        A key of `RECIPES`.
    C : float, optional
        Inverse strength of the L2 penalty; chosen from `C_GRID` if not given.
    groups : sequence of str, optional
        Rows of one group (identical images) stay in one fold.
    validation : tuple of np.ndarray, optional
        Features (m, d) and labels (m,) to choose `C` on, instead of folds.
    source : mapping, optional
        Kept with the head, see `Head`.
    seed : int
        Of the folds and the solver.

    Returns
    -------
    Head

    Raises
    ------
    UnknownNameError
        There is no such recipe.
    UsageError
        `C` is not above zero, or features and labels are not of the same, positive number.
    DataError
        There are fewer than two classes, or too few images to choose `C`.
    """
    if clf not in RECIPES:
        raise UnknownNameError(
            f"no classifier {clf!r}{did_you_mean(clf, RECIPES)}; expected one of "
            f"{', '.join(RECIPES)}"
        )
    if C is not None and not _C_BOUNDS[0] <= C <= _C_BOUNDS[1]:
        raise UsageError(
            f"C is {C}, expected a number above 0, from {_C_BOUNDS[0]:g} to {_C_BOUNDS[1]:g}; "
            f"give another --C, or none"
        )
    for features, labels in [(X, y)] + ([validation] if validation else []):
        _check_rows(features, labels)
    classes, targets = np.unique(y, return_inverse=True)
    if len(classes) < 2:  # noqa: PLR2004 - a classifier tells at least two apart
        raise DataError(
            f"the training images have {len(classes)} class; a classifier needs at least two: "
            f"add images of another"
        )
    members = np.arange(len(X)) if groups is None else np.asarray(groups)
    _, first, group_of_row = np.unique(members, return_index=True, return_inverse=True)
    sizes = np.bincount(targets[first], minlength=len(classes))
    holdouts: Iterator[_Holdout] | None = None
    if validation is not None:
        holdouts = iter([_validation_holdout(X, classes, targets, *validation)])
    elif sizes.min() > 1:
        n_folds = min(_FOLDS, int(sizes.min()))
        folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
        held = (np.isin(group_of_row, rows) for _, rows in folds.split(first, targets[first]))
        holdouts = (_Holdout(X[~rows], targets[~rows], X[rows], targets[rows]) for rows in held)
    elif C is None:
        raise DataError(
            f"class {str(classes[sizes.argmin()])!r} has 1 different training image; "
            f"cross-validation needs 2 to choose C: add images, or give --C"
        )
    grid = C_GRID if C is None else (C,)
    temperature, scores = 1.0, dict[str, Any]()
    if holdouts is not None:
        C, temperature, scores = _choose(holdouts, clf, grid, len(classes), seed)
    assert C is not None  # noqa: S101 - given or chosen
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        ((weight, bias),) = _fit_grid(X, targets, clf, [C], seed)
    scores["converged"] = not any(w.category is ConvergenceWarning for w in caught)
    return Head(
        clf=clf,
        classes=tuple(map(str, classes)),
        weight=weight.astype(np.float32),
        bias=bias.astype(np.float32),
        C=C,
        temperature=temperature,
        scores=scores,
        source=dict(source or {}),
    )


def _check_rows(X: np.ndarray, y: np.ndarray) -> None:
    if X.ndim != 2 or len(X) != len(y) or not len(X):  # noqa: PLR2004 - rows and columns
        raise UsageError(
            f"features of shape {X.shape} and {len(y)} labels; expected one row of features for "
            f"each label, and at least one"
        )
    if not np.isfinite(X).all():
        raise DataError("the features hold nan or inf; expected finite numbers: extract again")


@dataclass(frozen=True)
class _Holdout:
    """Rows to fit on and rows held out."""

    X: np.ndarray
    targets: np.ndarray
    X_held: np.ndarray
    targets_held: np.ndarray


def _validation_holdout(
    X: np.ndarray, classes: np.ndarray, targets: np.ndarray, X_held: np.ndarray, y_held: np.ndarray
) -> _Holdout:
    strange = sorted(set(map(str, y_held)) - set(map(str, classes)))
    if strange:
        raise DataError(
            f"the validation images have the class {strange[0]!r} that no training image has; "
            f"add training images of it, or remove it"
        )
    return _Holdout(X, targets, X_held, np.searchsorted(classes, y_held))


def _choose(
    holdouts: Iterator[_Holdout], clf: str, grid: Sequence[float], n_classes: int, seed: int
) -> tuple[float, float, dict[str, Any]]:
    """Return the best `C`, its temperature and the candidates' held-out metrics."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        held = [_held_out_scores(holdout, clf, grid, n_classes, seed) for holdout in holdouts]
    targets = np.concatenate([targets for targets, _ in held])
    candidates = []
    for place, C in enumerate(grid):
        scores = np.concatenate([of_grid[place] for _, of_grid in held])
        temperature = _temperature(scores, targets) if clf == "svm" else 1.0
        chosen = probabilities(clf, scores, temperature)[np.arange(len(targets)), targets]
        candidates.append(
            {
                "C": C,
                "accuracy": float(np.mean(scores.argmax(axis=1) == targets)),
                "log_loss": float(-np.log(np.maximum(chosen, np.finfo(float).tiny)).mean()),
                "temperature": temperature,
            }
        )
    best = min(candidates, key=lambda found: found["log_loss"])
    summary = {
        "held_out": "validation images" if len(held) == 1 else f"{len(held)} folds",
        "accuracy": best["accuracy"],
        "log_loss": best["log_loss"],
        "candidates": candidates,
    }
    return best["C"], best["temperature"], summary


def _held_out_scores(
    holdout: _Holdout, clf: str, grid: Sequence[float], n_classes: int, seed: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    if len(np.unique(holdout.targets)) < n_classes:
        raise DataError(
            "identical images stand under several classes, which leaves a fold without one of "
            "them; correct the labels, or give --C"
        )
    fitted = _fit_grid(holdout.X, holdout.targets, clf, grid, seed)
    return holdout.targets_held, [holdout.X_held @ weight.T + bias for weight, bias in fitted]


def _fit_grid(
    X: np.ndarray, targets: np.ndarray, clf: str, grid: Sequence[float], seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Fit on standardised features for each `C`; return weights and biases for `X` as it is."""
    scaler = StandardScaler().fit(X.astype(np.float64))
    Z = scaler.transform(X.astype(np.float64))
    basis = span_basis(Z)
    reduced = Z if basis is None else Z @ basis
    fitted = []
    for C in grid:
        weight, bias = _affine(RECIPES[clf](C, seed).fit(reduced, targets), clf)
        lifted = weight if basis is None else weight @ basis.T
        folded = lifted / scaler.scale_
        fitted.append((folded, bias - folded @ scaler.mean_))
    return fitted


def _affine(estimator: Any, clf: str) -> tuple[np.ndarray, np.ndarray]:
    """Return weight (k, d) and bias (k,) of a fitted linear classifier, also for two classes."""
    parts = getattr(estimator, "estimators_", [estimator])
    weight = np.vstack([part.coef_ for part in parts])
    bias = np.concatenate([part.intercept_ for part in parts])
    if len(weight) > 1:
        return weight, bias
    # The softmax of (-s / 2, s / 2) is the sigmoid of s.
    half = 0.5 if clf == "softmax" else 1.0
    return np.vstack([-half * weight, half * weight]), np.concatenate([-half * bias, half * bias])


def _temperature(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the temperature with the lowest log loss, between 1/100 and 100.

    Scores that separate the classes would have it at 0. So a class's own share in the targets is
    less than 1 by what a uniform prior makes of its count (Platt 1999, Probabilistic Outputs for
    Support Vector Machines, section 2.2).
    """
    n_classes = scores.shape[1]
    counts = np.bincount(targets, minlength=n_classes)[targets]
    shares = np.repeat(1 / (counts[:, None] + n_classes), n_classes, axis=1)
    shares[np.arange(len(targets)), targets] *= counts + 1

    def log_loss(log_temperature: float) -> float:
        scaled = log_softmax(scores / np.exp(log_temperature), axis=1)
        return float(-(shares * scaled).sum(axis=1).mean())

    widest = np.log(100.0)
    found = minimize_scalar(log_loss, bounds=(-widest, widest), method="bounded")
    return float(np.exp(found.x))
