"""Cross-validate classifiers: choose hyperparameters, and score rows by heads without them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bottleneck.arguments import checked, made
from bottleneck.errors import DataError, UsageError
from bottleneck.heads.choosing import Choice, deal_groups
from bottleneck.heads.prepare import problem_of, recipe_of
from bottleneck.heads.problem import Fold, Problem
from bottleneck.heads.recipes import MLP, Recipe
from bottleneck.heads.scoring import fit_temperature, link_of, log_probabilities, score_metrics
from bottleneck.heads.stepping import choose_stepwise, held_rows
from bottleneck.labels import Targets
from bottleneck.settings import FitSettings, MLPSettings
from bottleneck.solvers import threads_for

if TYPE_CHECKING:
    from bottleneck.features import Features

__all__ = [
    "HeldOut",
    "asked",
    "choose",
    "cross_validate",
    "fold_metrics",
    "folds_to_choose",
    "held_out_probabilities",
]

_FOLDS = 5


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Probabilities of rows by heads that were not fitted on them.

    Attributes
    ----------
    rows : np.ndarray
        Indices of the n rows in the features, ascending.
    targets : Targets
        Labels of these rows.
    probabilities : np.ndarray
        Shape (n, k).
    folds : int
        Number of folds.
    """

    rows: np.ndarray
    targets: Targets
    probabilities: np.ndarray
    folds: int


def asked(
    clf: str | MLPSettings | FitSettings, options: Mapping[str, Any]
) -> tuple[FitSettings, Recipe, Any]:
    """Return the settings of a fit, its recipe, and the value given for its hyperparameter, if any.

    Parameters
    ----------
    clf : str, MLPSettings or FitSettings
        A classifier, or all settings.
    options : mapping of str to Any
        The other fields of `FitSettings`.

    Returns
    -------
    (FitSettings, Recipe, Any)

    Raises
    ------
    UnknownNameError
        The classifier does not exist.
    UsageError
        A hyperparameter is out of bounds or belongs to another classifier.
    """
    if isinstance(clf, FitSettings):
        settings = made(FitSettings, clf, options)
    elif isinstance(clf, MLPSettings):
        settings = FitSettings(clf="mlp", **{**options, **MLP.of(clf).settings})
    else:
        settings = FitSettings(clf=clf, **options)  # type: ignore[arg-type]
    recipe = recipe_of(settings if settings.clf == MLP.name else settings.clf)
    for name in ("C", "n_neighbors"):
        if getattr(settings, name) is not None and name != recipe.parameter:
            raise UsageError(f"{recipe.name} has no `{name}`; leave it out")
    if settings.device not in {"cpu", "auto"} and recipe.name != MLP.name:
        raise UsageError(
            f"`device` applies to mlp only; {recipe.name} is fitted on the CPU: leave it out"
        )
    return settings, recipe, getattr(settings, recipe.parameter) if recipe.parameter else None


def folds_to_choose(problem: Problem, recipe: Recipe, value: Any) -> list[Fold]:
    """Return folds to choose on; none if no folds are possible and nothing has to be chosen.

    Parameters
    ----------
    problem : Problem
        n rows.
    recipe : Recipe
        The classifier.
    value : Any
        Its hyperparameter, or None if that is to be chosen.

    Returns
    -------
    list of Fold

    Raises
    ------
    DataError
        No folds are possible, and something has to be chosen.
    """
    try:
        return problem.folds(_FOLDS, fewer=True)
    except DataError as error:
        if not isinstance(recipe, MLP) and (recipe.parameter is None or value is not None):
            return []
        remedy = f", or give `{recipe.parameter}`" if recipe.parameter else ", or val images"
        raise DataError(f"{error}{remedy}") from error


def choose(
    recipe: Recipe, problem: Problem, folds: Sequence[Fold], grid: Sequence[Any]
) -> tuple[Any, Choice, list[dict[str, Any]]]:
    """Choose the value with the lowest log loss on the held-out rows.

    Parameters
    ----------
    recipe : Recipe
        The classifier.
    problem : Problem
        n rows.
    folds : sequence of Fold
        Folds of these rows.
    grid : sequence
        Values of its hyperparameter; only None if it has none.

    Returns
    -------
    value : Any
        The chosen value.
    choice : Choice
        On the held-out rows of all folds, one fold after the other.
    candidates : list of dict
        The metrics of each value.
    """
    held = held_rows(folds)
    targets = problem.targets.take(held)
    link = link_of(recipe.name, multilabel=targets.multilabel)
    parts = np.arange(len(folds)).repeat([int(fold.held.sum()) for fold in folds])
    if len(folds) == 1:
        parts = deal_groups(problem.groups[held], targets=targets)
    choice = Choice(link, targets, parts, margins=recipe.margins)
    chosen, found = None, list[dict[str, Any]]()
    for value, each in zip(grid, recipe.held_out(problem, folds, grid), strict=True):
        own = np.concatenate(each)
        if choice.offer(own):
            chosen = value
        named = {recipe.parameter: value} if recipe.parameter else {}
        found.append({**named, **choice.metrics(own)})
    return chosen, choice, found


@checked
def cross_validate(
    problem: Problem, recipe: Recipe, folds: Sequence[Fold], grid: Sequence[Any]
) -> list[list[dict[str, float]]]:
    """Fit on each fold for each value of the hyperparameter, and score the held-out rows.

    Probabilities are calibrated like those of a head, but never on the rows that they are judged
    on: each half of a fold's held-out rows uses the temperature fitted on the other half.

    Parameters
    ----------
    problem : Problem
        n rows.
    recipe : Recipe
        The classifier.
    folds : sequence of Fold
        f folds.
    grid : sequence
        Values of its hyperparameter; only None if it has none.

    Returns
    -------
    list of list of dict
        For each value and each fold, ``images``, the number of held-out images, and the metrics of
        `bottleneck.heads.scoring.score_metrics`.
    """
    with threads_for(problem.X.size):
        return [
            [fold_metrics(problem, recipe, *each) for each in zip(folds, scores, strict=True)]
            for scores in recipe.held_out(problem, folds, grid)
        ]


def fold_metrics(
    problem: Problem, recipe: Recipe, fold: Fold, scores: np.ndarray
) -> dict[str, float]:
    """Return the metrics of a fold's held-out rows, calibrated as in `cross_validate`.

    Parameters
    ----------
    problem, recipe, fold : Problem, Recipe, Fold
        As for `cross_validate`.
    scores : np.ndarray
        Shape (m, k), of the held-out rows.

    Returns
    -------
    dict of str to float
        As in `cross_validate`.
    """
    link = link_of(recipe.name, multilabel=problem.targets.multilabel)
    held = problem.targets.take(fold.held)
    temperatures = _temperatures(link, scores, held, problem.groups[fold.held])
    return {"images": len(held), **score_metrics(link, scores, held, temperatures)}


def _temperatures(link: str, scores: np.ndarray, held: Targets, groups: np.ndarray) -> np.ndarray:
    """Return the temperature of each row, shape (n, 1), fitted on rows of other groups."""
    half = deal_groups(groups, 2) == 0
    found = np.ones((len(scores), 1))
    for own in (half, ~half):
        if not own.all():
            found[own] = fit_temperature(link, scores[~own], held.take(~own))
    return found


@checked
def held_out_probabilities(
    features: "Features",
    clf: str | MLPSettings | FitSettings = "softmax",
    *,
    rows: np.ndarray | None = None,
    **options: Any,
) -> HeldOut:
    """Return the probabilities of labelled images by heads that have not seen them.

    Each of five folds (fewer if a class has fewer images) is scored by a head fitted on the others.
    Identical images and those of a group stay in one fold. The hyperparameter has the lowest log
    loss on all folds, whose probabilities are calibrated together, as in `advise_on`.

    Parameters
    ----------
    features : Features
        The result of `bottleneck.load_features`.
    clf : str, MLPSettings or FitSettings
        The classifier, or all settings.
    rows : np.ndarray, optional
        Boolean mask of shape (n_samples,), or ascending indices; by default the training rows.
    **options
        The other fields of `bottleneck.settings.FitSettings`.

    Returns
    -------
    HeldOut
        For all unaugmented rows of a sample weight above 0.

    Raises
    ------
    UnknownNameError, UsageError, DataError
        As for `fit_head`; or no folds are possible.
    """
    settings, recipe, value = asked(clf, options)
    chosen = np.arange(len(features))[features.splits == "train" if rows is None else rows]
    chosen = chosen[features.weights[chosen] > 0]
    problem = problem_of(features, recipe, settings, chosen)
    folds = problem.folds(_FOLDS, fewer=True)
    link = link_of(recipe.name, multilabel=problem.targets.multilabel)
    fewest = min(int(fold.fit.sum()) for fold in folds)
    grid = recipe.values_for(fewest, [] if value is None else [value])
    with threads_for(problem.X.size):
        _, scores = choose_stepwise(recipe, link, problem, folds, grid)
    held = held_rows(folds)
    temperature = fit_temperature(link, scores, problem.targets.take(held))
    order = held.argsort()
    own, found = held[order], np.exp(log_probabilities(link, scores[order], temperature))
    return HeldOut(chosen[own], problem.targets.take(own), found, len(folds))
