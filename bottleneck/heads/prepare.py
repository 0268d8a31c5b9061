"""Check the data and settings that a head is fitted with."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bottleneck.bases.precision import device_names
from bottleneck.errors import DataError, UnknownNameError, UsageError, counted, did_you_mean
from bottleneck.heads.adjust import Adjust
from bottleneck.heads.problem import Fold, Problem, Rows, lacking_classes
from bottleneck.heads.recipes import MLP, RECIPES, Recipe
from bottleneck.labels import Targets, known_labels
from bottleneck.settings import MLPSettings, TrainingSettings
from bottleneck.solvers import is_reducible

if TYPE_CHECKING:
    from bottleneck.features import Features

__all__ = [
    "make_problem",
    "problem_of",
    "recipe_of",
    "training_device",
    "validation_rows",
    "with_validation",
]


_MOST_WEIGHT = 1e9
"""Sums of larger sample weights, or of the inverse of smaller ones, are not exact in float32."""


def recipe_of(clf: str | MLPSettings) -> Recipe:
    """Return the recipe of a classifier's name, or of a network's settings.

    Parameters
    ----------
    clf : str or MLPSettings
        A key of `RECIPES`, or the settings of a network.

    Returns
    -------
    Recipe

    Raises
    ------
    UnknownNameError
        The classifier does not exist.
    """
    if isinstance(clf, MLPSettings):
        return MLP.of(clf)
    if clf not in RECIPES:
        raise UnknownNameError(
            f"no classifier {clf!r}; expected one of {', '.join(RECIPES)}"
            f"{did_you_mean(clf, RECIPES)}"
        )
    return RECIPES[clf]


def training_device(name: str) -> str:
    """Return the PyTorch device for a device name.

    Parameters
    ----------
    name : str
        ``auto``, or a device name of PyTorch.

    Returns
    -------
    str

    Raises
    ------
    UsageError
        The device does not exist, or the name means several.
    """
    devices = device_names(name)
    if len(devices) > 1:
        raise UsageError(f"`device` {name!r} names {len(devices)} devices; give one to train on")
    return devices[0]


def problem_of(
    features: "Features", recipe: Recipe, settings: TrainingSettings, rows: np.ndarray | None = None
) -> Problem:
    """Build the problem to fit a head on, from all training rows or from the rows given.

    Identical images and the views of an image are in one group; sample weights are kept.

    Parameters
    ----------
    features : Features
        The result of `bottleneck.load_features`.
    recipe : Recipe
        The classifier.
    settings : TrainingSettings
        Settings of the fit.
    rows : np.ndarray, optional
        Boolean mask of shape (n_samples,), or indices; by default the training rows.

    Returns
    -------
    Problem

    Raises
    ------
    DataError
        There are no labels or no training images; or as for `fit_rows`.
    UsageError
        `rows` is invalid; or as for `fit_rows`.
    """
    train = features.training() if rows is None else features.take(rows)
    problem = make_problem(
        train.X,
        train.labels,
        recipe,
        settings,
        groups=train.groups,
        sample_weight=train.weights,
        plain=train.views == 0,
        multilabel=features.images.multilabel,
        widths=features.widths,
    )
    return replace(problem, named=bool(features.images.group_of))


def make_problem(
    X: Rows,
    y: np.ndarray,
    recipe: Recipe,
    settings: TrainingSettings | None = None,
    *,
    groups: Sequence[str] | np.ndarray | None = None,
    sample_weight: np.ndarray | None = None,
    plain: np.ndarray | None = None,
    multilabel: bool = False,
    widths: tuple[int, ...] = (),
) -> Problem:
    """Check data and build a problem; parameters and errors are those of `fit_rows`.

    Parameters
    ----------
    X : np.ndarray or StreamedRows
        Features, shape (n_samples, d).
    y : np.ndarray
        Labels, shape (n_samples,); or bool of shape (n_samples, k).
    recipe : Recipe
        The classifier.
    settings : TrainingSettings, optional
        Settings of the fit.
    groups : sequence, optional
        Shape (n_samples,): rows of one group stay in one fold.
    sample_weight : np.ndarray, optional
        Sample weights, shape (n_samples,).
    plain : np.ndarray, optional
        bool of shape (n_samples,): True for unaugmented rows, which may be held out.
    multilabel : bool
        Whether rows may have several classes.
    widths : tuple of int
        Numbers of columns of the joined layers, if there are several.

    Returns
    -------
    Problem
        The problem, without rows of sample weight 0.

    Raises
    ------
    UsageError
        Features, labels, weights and groups do not fit together, or the classifier does not take
        them.
    DataError
        The features are not finite, or there are fewer than two classes.
    """
    settings = settings or TrainingSettings()
    _check_rows(X, y)
    targets = Targets.of(np.asarray(y), multilabel=multilabel)
    _check_recipe(recipe, X, targets)
    weights = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    if weights.shape != (len(X),) or not (np.isfinite(weights).all() and weights.min() >= 0):
        raise UsageError(
            f"sample weights must be finite numbers of at least 0, one for each of "
            f"{counted(len(X), 'row')}, got an array of shape {weights.shape}"
        )
    if not weights.any():
        raise UsageError("all sample weights are zero; at least one must be above 0")
    least, most = weights[weights > 0].min(), weights.max()
    if least < 1 / _MOST_WEIGHT or most > _MOST_WEIGHT:
        raise UsageError(
            f"sample weights are from {least:g} to {most:g}; expected 0, or from "
            f"{1 / _MOST_WEIGHT:g} to {_MOST_WEIGHT:g}: divide them all by the same number"
        )
    _check_classes(targets, weights > 0)
    own = np.arange(len(X)) if groups is None else np.asarray(groups)
    seen = np.ones(len(X), dtype=bool) if plain is None else np.asarray(plain, dtype=bool)
    if seen.shape != own.shape or not np.isin(own, own[seen]).all():
        raise UsageError(
            f"only {int(seen.sum())} of {counted(len(own), 'row is', 'rows are')} unaugmented; "
            f"expected at least one in each group: give each augmented view the group of its image"
        )
    apart = widths if len(widths) > 1 else ()
    adjust = Adjust(settings.power, settings.normalize, apart)
    problem = Problem(
        X=adjust.rows(X),
        targets=targets,
        groups=own,
        weights=weights,
        plain=seen,
        balanced=settings.balanced,
        standardize=settings.standardize,
        seed=settings.seed,
        adjust=adjust,
        device=training_device(settings.device) if recipe.name == MLP.name else "cpu",
    )
    return problem if weights.all() else problem.take(weights > 0)


def validation_rows(features: "Features", problem: Problem) -> "Features":
    """Return the rows of the ``val`` images without copies or group of images that are fitted on.

    Parameters
    ----------
    features : Features
        The result of `bottleneck.load_features`.
    problem : Problem
        The result of `problem_of`.

    Returns
    -------
    Features
        Unaugmented rows; there may be none.
    """
    held = features.split("val")
    return held.take(~np.isin(held.groups, problem.groups))


def with_validation(
    problem: Problem, X: Any, y: np.ndarray, groups: np.ndarray
) -> tuple[Problem, Fold]:
    """Add held-out rows to a problem, and return it with the fold that holds them out.

    Parameters
    ----------
    problem : Problem
        n rows to fit on.
    X : np.ndarray or StreamedRows
        Features of shape (m, d), of the same type as the problem's.
    y : np.ndarray
        Labels of shape (m,). Rows of classes that the problem does not have are left out.
    groups : np.ndarray
        Shape (m,): identical images have one group.

    Returns
    -------
    (Problem, Fold)
        n + m rows, or fewer.

    Raises
    ------
    UsageError
        `X` and `y` are empty or differ in length.
    DataError
        `X` contains nan or inf, or `y` only classes that the problem does not have.
    """
    _check_rows(X, y)
    own, targets, number = problem.X, problem.targets, len(problem.X)
    labels, known = known_labels(y, targets.classes, multilabel=targets.multilabel)
    X = problem.adjust.rows(X if known.all() else X[known])
    held = Targets.among(labels, targets.classes, multilabel=targets.multilabel)
    groups = np.unique(np.asarray(groups)[known], return_inverse=True)[1] + number
    own_groups = np.unique(problem.groups, return_inverse=True)[1]
    both = replace(
        problem,
        X=np.concatenate([own, X]) if isinstance(own, np.ndarray) else own.joined(X),
        targets=replace(targets, codes=np.concatenate([targets.codes, held.codes])),
        groups=np.concatenate([own_groups, groups]),
        weights=np.concatenate([problem.weights, np.ones(len(X))]),
        plain=np.concatenate([problem.plain, np.ones(len(X), dtype=bool)]),
    )
    fit = np.arange(len(both.X)) < number
    return both, Fold(fit, ~fit)


def _check_rows(X: Rows, y: np.ndarray) -> None:
    if len(X.shape) != 2 or len(X) != len(y) or not len(X):  # noqa: PLR2004 - rows and columns
        raise UsageError(
            f"features of shape {X.shape} and {counted(len(y), 'label')}; expected one row of "
            f"features for each label, and at least one"
        )
    # Streamed features were checked for nan and inf when the cache stored them.
    if isinstance(X, np.ndarray) and not np.isfinite(X).all():
        raise DataError(
            "the features contain nan or inf; expected finite numbers: correct these rows, or "
            "leave them out"
        )


def _check_recipe(recipe: Recipe, X: Rows, targets: Targets) -> None:
    if targets.multilabel and not recipe.multilabel:
        able = ", ".join(name for name, each in RECIPES.items() if each.multilabel)
        raise UsageError(
            f"{recipe.name} gives each image one class, but the labels name several; choose one of "
            f"{able}"
        )
    reduces = recipe.reduces and is_reducible(X)
    if not (isinstance(X, np.ndarray) or recipe.streams or reduces):
        able = ", ".join(name for name, each in RECIPES.items() if each.streams)
        raise UsageError(
            f"{recipe.name} needs all features in memory, {X.size * 16 / 1e6:.0f} MB with "
            f"copies, but the limit is {X.memory / 1e6:.0f} MB; choose one of {able}, a `pool` "
            f"that makes fewer features, or more `memory`"
        )


def _check_classes(targets: Targets, weighted: np.ndarray) -> None:
    """Raise a `DataError` unless each class has, and lacks, rows of sample weight above 0."""
    if not targets.multilabel and len(targets.classes) < 2:  # noqa: PLR2004 - to be told apart
        raise DataError(
            f"the training images have {counted(len(targets.classes), 'class')}; a classifier "
            f"needs at least two: add images of another class"
        )
    lacking = lacking_classes(targets.take(weighted))
    if lacking.any():
        raise DataError(
            f"class {targets.classes[int(lacking.argmax())]!r} has no images of sample weight "
            f"above 0, or all images have the class; add images with and without it, or give "
            f"weights above 0"
        )
