"""Recipes: fit a linear head on features and choose its penalty on held-out ones."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold

from bottleneck.errors import DataError, UnknownNameError, UsageError, did_you_mean
from bottleneck.heads.calibration import calibration_error, fit_temperature
from bottleneck.heads.head import Head, log_probabilities
from bottleneck.heads.recipes import C_GRID, RECIPES, Recipe
from bottleneck.solvers import Reduction, reduce_rows

__all__ = ["fit_head"]

Reduce = Callable[..., Reduction]

_C_BOUNDS = (1e-10, 1e10)
_FOLDS = 5


def fit_head(
    X: np.ndarray,
    y: np.ndarray,
    clf: str = "softmax",
    *,
    C: float | None = None,
    groups: Sequence[str] | np.ndarray | None = None,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    balanced: bool = False,
    standardize: bool = True,
    reduce: Reduce = reduce_rows,
    source: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Head:
    """Fit a classifier on standardised features and choose `C` on held-out ones.

    `C` is the candidate with the lowest held-out log loss. (The accuracy of a few images has ties
    and, on noise, no preference for a strong penalty.) Held out are five stratified folds of the
    training rows, fewer where a class has fewer images, or the validation rows where they are
    given. Either way the head is then fitted on all training rows, and on them alone. Mean and
    variance come from the rows fitted on. All candidates and folds are fitted at once, see
    `bottleneck.solvers.path.fit_path`.

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
    balanced : bool
        Whether each class counts the same, however many rows it has: a row counts n_samples /
        (number of classes * rows of its class).
    standardize : bool
        Whether each feature is divided by its deviation.
    reduce : callable
        `bottleneck.solvers.reduce_rows`, or `KeptReductions`, which keeps what it returns.
    source : mapping, optional
        Kept with the head, see `Head`.
    seed : int
        Of the folds.

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
    penalised = RECIPES[clf].penalised
    if C is not None and not penalised:
        raise UsageError(f"{clf} has no penalty to give a C for; leave --C out")
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
    fitter = _Fitter(RECIPES[clf], reduce, balanced=balanced, standardize=standardize)
    members = np.arange(len(X)) if groups is None else np.asarray(groups)
    if validation is not None:
        held_out = _validation_rows(X, classes, targets, *validation)
    else:
        held_out = _folds(X, classes, targets, members, seed, needed=C is None and penalised)
    temperature, scores = 1.0, dict[str, Any]()
    if held_out is not None:
        grid = C_GRID if penalised and C is None else (C,)
        C, temperature, scores = _choose(fitter, clf, held_out, grid)
    weight, bias, scores["converged"] = fitter.fit(X, targets, C)
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


@dataclass(frozen=True)
class _Fitter:
    """How a head is fitted."""

    recipe: Recipe
    reduce: Reduce
    balanced: bool
    standardize: bool

    def fit(
        self, X: np.ndarray, targets: np.ndarray, C: float | None
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        """Return weight (k, d) and bias (k,) for all rows, and whether the solver converged."""
        reduction = self.reduce(X, standardize=self.standardize)
        counts = self._counts(targets, np.ones((len(X), 1), dtype=bool))
        ((_, [(weight, bias)], converged),) = self.recipe.fit(reduction, targets, counts, [C])
        return *reduction.lift(weight, bias, X), converged

    def held_out_scores(
        self, rows: "_HeldOut", grid: Sequence[float | None]
    ) -> Iterator[np.ndarray]:
        """Yield the scores of all held-out rows for each `C`, of shape (m, k)."""
        found: dict[float | None, list[np.ndarray]] = {C: [] for C in grid}
        folds = range(len(rows.fit))
        # Without deviations, which each fold has of its own, one reduction serves all of them.
        for some in [[fold] for fold in folds] if self.standardize else [list(folds)]:
            train = rows.fit[some[0]] if self.standardize else None
            reduction = self.reduce(rows.X, train, standardize=self.standardize)
            counts = self._counts(rows.targets, np.stack([rows.fit[fold] for fold in some], axis=1))
            for C, affine, _ in self.recipe.fit(reduction, rows.targets, counts, grid):
                for fold, (weight, bias) in zip(some, affine, strict=True):
                    found[C].append(reduction.rows[rows.held[fold]] @ weight.T + bias)
        for C in grid:
            yield np.concatenate(found[C])

    def _counts(self, targets: np.ndarray, fit: np.ndarray) -> np.ndarray:
        """Return what each row counts in each fold, shape (n, f)."""
        counts = fit.astype(np.float64)
        if self.balanced:
            members = np.stack([np.bincount(targets, weights=fold) for fold in counts.T], axis=1)
            counts *= (counts.sum(axis=0) / (len(members) * members))[targets]
        return counts


@dataclass(frozen=True)
class _HeldOut:
    """Rows of which some are fitted on and others held out, fold by fold.

    Attributes
    ----------
    X, targets : np.ndarray
        Shapes (n, d) and (n,).
    fit, held : list of np.ndarray
        bool of shape (n,) for each fold.
    """

    X: np.ndarray
    targets: np.ndarray
    fit: list[np.ndarray]
    held: list[np.ndarray]


def _check_rows(X: np.ndarray, y: np.ndarray) -> None:
    if X.ndim != 2 or len(X) != len(y) or not len(X):  # noqa: PLR2004 - rows and columns
        raise UsageError(
            f"features of shape {X.shape} and {len(y)} labels; expected one row of features for "
            f"each label, and at least one"
        )
    if not np.isfinite(X).all():
        raise DataError("the features hold nan or inf; expected finite numbers: extract again")


def _validation_rows(
    X: np.ndarray, classes: np.ndarray, targets: np.ndarray, X_held: np.ndarray, y_held: np.ndarray
) -> _HeldOut | None:
    strange = sorted(set(map(str, y_held)) - set(map(str, classes)))
    if strange:
        raise DataError(
            f"the validation images have the class {strange[0]!r} that no training image has; "
            f"add training images of it, or remove it"
        )
    both = np.concatenate([targets, np.searchsorted(classes, y_held)])
    fit = np.arange(len(both)) < len(targets)
    return _HeldOut(np.concatenate([X, X_held]), both, [fit], [~fit])


def _folds(
    X: np.ndarray,
    classes: np.ndarray,
    targets: np.ndarray,
    members: np.ndarray,
    seed: int,
    *,
    needed: bool,
) -> _HeldOut | None:
    """Return stratified folds of groups of rows; None where there are none, unless `needed`."""
    _, first, group_of_row = np.unique(members, return_index=True, return_inverse=True)
    groups = np.bincount(targets[first], minlength=len(classes))
    if groups.min() > 1:
        folds = StratifiedKFold(min(_FOLDS, groups.min()), shuffle=True, random_state=seed)
        held = [np.isin(group_of_row, rows) for _, rows in folds.split(first, targets[first])]
        if all(len(np.unique(targets[~rows])) == len(classes) for rows in held):
            return _HeldOut(X, targets, [~rows for rows in held], held)
        reason = "identical images stand under several classes, which leaves a fold without one"
        remedy = "correct the labels"
    else:
        reason = (
            f"class {str(classes[groups.argmin()])!r} has 1 different training image; "
            f"cross-validation needs 2 to choose C"
        )
        remedy = "add images"
    if needed:
        raise DataError(f"{reason}: {remedy}, or give --C")
    return None


def _choose(
    fitter: _Fitter, clf: str, rows: _HeldOut, grid: Sequence[float | None]
) -> tuple[float | None, float, dict[str, Any]]:
    """Return the best `C`, its temperature and the candidates' held-out metrics."""
    targets = np.concatenate([rows.targets[held] for held in rows.held])
    everyone = np.arange(len(targets))
    candidates: list[dict[str, Any]] = []
    best = np.empty(0)
    for C, scores in zip(grid, fitter.held_out_scores(rows, grid), strict=True):
        # Margins say nothing about probabilities until they have a temperature.
        temperature = fit_temperature(clf, scores, targets) if fitter.recipe.margins else 1.0
        own = log_probabilities(clf, scores, temperature)[everyone, targets]
        candidates.append(
            {
                "C": C,
                "accuracy": float(np.mean(scores.argmax(axis=1) == targets)),
                "log_loss": float(-own.mean()),
            }
        )
        if candidates[-1]["log_loss"] == min(found["log_loss"] for found in candidates):
            best, chosen = scores, candidates[-1]
    temperature = fit_temperature(clf, best, targets)
    before, after = (log_probabilities(clf, best, each) for each in (1.0, temperature))
    summary = {
        "held_out": "validation images" if len(rows.held) == 1 else f"{len(rows.held)} folds",
        "accuracy": chosen["accuracy"],
        "log_loss": float(-after[everyone, targets].mean()),
        "calibration_error": calibration_error(np.exp(after), targets),
        "calibration_error_without_temperature": calibration_error(np.exp(before), targets),
        "candidates": candidates,
    }
    return chosen["C"], temperature, summary
