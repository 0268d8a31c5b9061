"""What is given to be fitted, checked."""

from collections.abc import Sequence

import numpy as np

from bottleneck.errors import DataError, UnknownNameError, UsageError, did_you_mean
from bottleneck.heads.problem import Blocks, Fold, Problem, Reduce
from bottleneck.heads.recipes import RECIPES, Recipe
from bottleneck.labels import Targets
from bottleneck.solvers import reduce_rows

__all__ = ["OPTIONS", "check_value", "make_problem", "recipe_of", "with_validation"]

OPTIONS = {"C": "--C", "n_neighbors": "--neighbors"}
"""By which option of the command line a hyper-parameter is given."""
_C_BOUNDS = (1e-10, 1e10)


def recipe_of(clf: str | Recipe) -> Recipe:
    """Return a recipe by its name.

    Raises
    ------
    UnknownNameError
        There is none of that name.
    """
    if not isinstance(clf, str):
        return clf
    if clf not in RECIPES:
        raise UnknownNameError(
            f"no classifier {clf!r}{did_you_mean(clf, RECIPES)}; expected one of "
            f"{', '.join(RECIPES)}"
        )
    return RECIPES[clf]


def check_value(recipe: Recipe, value: float) -> None:
    """Refuse a value that the recipe's hyper-parameter cannot have, by a `UsageError`."""
    if recipe.parameter == "C" and not _C_BOUNDS[0] <= value <= _C_BOUNDS[1]:
        raise UsageError(
            f"C is {value}, expected a number above 0, from {_C_BOUNDS[0]:g} to {_C_BOUNDS[1]:g}; "
            f"give another --C, or none"
        )
    if recipe.parameter == "n_neighbors" and value < 1:
        raise UsageError(f"n_neighbors is {value}, expected at least 1; give another --neighbors")


def make_problem(
    X: np.ndarray | Blocks,
    y: np.ndarray,
    recipe: Recipe,
    *,
    groups: Sequence[str] | np.ndarray | None = None,
    sample_weight: np.ndarray | None = None,
    plain: np.ndarray | None = None,
    balanced: bool = False,
    standardize: bool = True,
    reduce: Reduce = reduce_rows,
    multilabel: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> Problem:
    """Check what a head is to be fitted on; see `fit_head` for what is given and raised."""
    _check_rows(X, y)
    targets = Targets.of(np.asarray(y), multilabel=multilabel)
    if not targets.multilabel and len(targets.classes) < 2:  # noqa: PLR2004 - to be told apart
        raise DataError(
            f"the training images have {len(targets.classes)} class; a classifier needs at least "
            f"two: add images of another"
        )
    if targets.multilabel and not recipe.multilabel:
        able = ", ".join(name for name, each in RECIPES.items() if each.multilabel)
        raise UsageError(
            f"{recipe.name} gives each image one class, but the labels name several; choose one of "
            f"{able}"
        )
    if not isinstance(X, np.ndarray) and not recipe.streams:
        able = ", ".join(name for name, each in RECIPES.items() if each.streams)
        raise UsageError(
            f"{recipe.name} needs all features in memory, {X.size * 16 / 1e6:.0f} MB with copies, "
            f"but may take {X.memory / 1e6:.0f} MB; choose one of {able}, a --pool that makes "
            f"fewer features, or more --memory"
        )
    weights = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    if weights.shape != (len(X),) or not (np.isfinite(weights).all() and weights.min() >= 0):
        raise UsageError(
            f"sample weights of shape {weights.shape} for {len(X)} rows; expected one for each "
            f"row, from 0 on and finite"
        )
    if not weights.any():
        raise UsageError("all sample weights are zero; expected some above: give other weights")
    members = targets.indicators[weights > 0].sum(axis=0)
    lacking = members == 0
    if targets.multilabel:
        lacking |= members == (weights > 0).sum()
    if lacking.any():
        raise DataError(
            f"class {targets.classes[int(lacking.argmax())]!r} has no images that count, or all "
            f"have it; expected some of it and some others: give weights above 0, or more images"
        )
    own = np.arange(len(X)) if groups is None else np.asarray(groups)
    problem = Problem(
        X=X,
        targets=targets,
        groups=own,
        weights=weights,
        plain=_checked_plain(plain, own),
        balanced=balanced,
        standardize=standardize,
        reduce=reduce,
        seed=seed,
        device=device,
    )
    return problem if weights.all() else problem.take(weights > 0)


def _checked_plain(plain: np.ndarray | None, groups: np.ndarray) -> np.ndarray:
    """Return which rows are plain; a `UsageError` where a group has none."""
    if plain is None:
        return np.ones(len(groups), dtype=bool)
    found = np.asarray(plain, dtype=bool)
    if found.shape != groups.shape or not np.isin(groups, groups[found]).all():
        raise UsageError(
            f"{int(found.sum())} of {len(groups)} rows are plain; expected one at least in each "
            f"group: give the group of every view, which is that of its image"
        )
    return found


def with_validation(
    problem: Problem, X: np.ndarray | Blocks, y: np.ndarray
) -> tuple[Problem, Fold]:
    """Return a problem with rows that are held out, and which these are.

    Raises
    ------
    UsageError
        Features and labels are not of the same, positive number.
    DataError
        They hold nan or inf, or a class that the problem does not have.
    """
    _check_rows(X, y)
    targets = problem.targets
    try:
        held = Targets.among(np.asarray(y), targets.classes, multilabel=targets.multilabel)
    except LookupError as error:
        raise DataError(
            f"the validation images have the class {error.args[0]!r} that no training image has; "
            f"add training images of it, or remove it"
        ) from error
    return problem.with_held(X, held)


def _check_rows(X: np.ndarray | Blocks, y: np.ndarray) -> None:
    if len(X.shape) != 2 or len(X) != len(y) or not len(X):  # noqa: PLR2004 - rows and columns
        raise UsageError(
            f"features of shape {X.shape} and {len(y)} labels; expected one row of features for "
            f"each label, and at least one"
        )
    # What is read in blocks was finite when the cache stored it.
    if isinstance(X, np.ndarray) and not np.isfinite(X).all():
        raise DataError("the features hold nan or inf; expected finite numbers: extract again")
