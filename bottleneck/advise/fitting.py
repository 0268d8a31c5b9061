"""Fit a head on the rows of a fold, with its hyperparameter chosen on folds within them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bottleneck.heads import MLP
from bottleneck.heads.problem import Fold, Problem
from bottleneck.heads.recipes import Linear, Recipe
from bottleneck.heads.scoring import fit_temperature, link_of, log_losses, log_probabilities
from bottleneck.solvers import threads_for
from bottleneck.solvers.closed_form import solutions_of

__all__ = ["choose", "fit_fold", "held_out"]

_INNER_FOLDS = 3
_TOLERANCE = 1e-7
"""Of the objective: that of single precision, which scores on a few hundred rows do not exceed."""
_FIRST = 3
"""The candidate for `C` to begin with: smaller ones are rarely the best."""
_CLEAR_RISE = 0.01
"""A log loss that is larger by this fraction ends the search for `C`; so do two rises."""


def fit_fold(
    problem: Problem, recipe: Recipe, fold: Fold
) -> tuple[np.ndarray, int, float, float, float]:
    """Fit on the rows of a fold.

    Parameters
    ----------
    problem, recipe, fold : Problem, Recipe, Fold

    Returns
    -------
    log_probabilities : np.ndarray
        Of the held-out rows.
    trained : int
        Number of rows fitted on.
    train_accuracy, train_log_loss : float
        Scores on those rows.
    inner_accuracy : float
        On folds within those rows, by which layers and bases can be chosen without the held-out
        rows; nan for a network, which has no such folds.
    """
    used = fold.fit | fold.held
    own, fit = problem.take(used), fold.fit[used]
    link = link_of(recipe.name, multilabel=False)
    with threads_for(own.X.size):
        scores, temperature, inner = _scores(recipe, link, own, fit)
    own_shares = log_probabilities(link, scores, temperature)
    right = scores.argmax(axis=1) == own.targets.codes
    losses = log_losses(link, scores[fit], own.targets.take(fit), temperature)
    held = fold.held[used]
    trained = int(fit.sum()), float(right[fit].mean()), float(losses.mean())
    return own_shares[held], *trained, inner


def _scores(
    recipe: Recipe, link: str, problem: Problem, fit: np.ndarray
) -> tuple[np.ndarray, float, float]:
    """Return scores of all rows and their temperature, for the lowest log loss on inner folds.

    And the accuracy on these folds.
    """
    everyone = Fold(fit, np.ones_like(fit))
    if isinstance(recipe, MLP):
        ((scores,),) = recipe.held_out(problem, [everyone], recipe.grid)
        return scores, 1.0, np.nan
    problem = problem.reduced(everyone)
    inner = problem.folds_within(everyone, _INNER_FOLDS)
    grid = recipe.values_for(min(int(fold.fit.sum()) for fold in inner))
    value, inside = choose(recipe, link, problem, inner, grid)
    held = problem.targets.take(_held_rows(inner))
    ((scores,),) = held_out(recipe, problem, [everyone], [value])
    inner_accuracy = float((inside.argmax(axis=1) == held.codes).mean())
    return scores, fit_temperature(link, inside, held), inner_accuracy


def _held_rows(folds: Sequence[Fold]) -> np.ndarray:
    return np.concatenate([np.flatnonzero(fold.held) for fold in folds])


def choose(
    recipe: Recipe, link: str, problem: Problem, folds: Sequence[Fold], grid: Sequence[Any]
) -> tuple[Any, np.ndarray]:
    """Return the value with the lowest log loss on held-out rows, and its scores of them.

    Log loss falls with `C`, and rises once the head overfits: what comes after a clear rise takes
    most of the time, and is not fitted. Values below the first are if that is the best.

    Parameters
    ----------
    recipe, link, problem, folds, grid
        The classifier, the link of its scores, n rows, their folds, and the values in order.

    Returns
    -------
    value : Any
        The chosen one.
    scores : np.ndarray
        Of the held-out rows of all folds.
    """
    held = problem.targets.take(_held_rows(folds))
    stepwise = isinstance(recipe, Linear) and recipe.streams
    first = min(_FIRST, len(grid) - 1) if stepwise else 0
    lowest = np.inf
    for values in (grid[first:], grid[:first][::-1]):
        rises, attempts = 0, held_out(recipe, problem, folds, values)
        for value, each in zip(values, attempts, strict=False):
            inside = np.concatenate(each)
            temperature = fit_temperature(link, inside, held) if recipe.margins else 1.0
            loss = log_losses(link, inside, held, temperature).mean()
            if loss < lowest:
                lowest, best, chosen, rises = loss, inside, value, 0
                continue
            rises += 1
            if stepwise and (rises > 1 or loss > (1 + _CLEAR_RISE) * lowest):
                break
        if chosen != grid[first]:
            break
    return chosen, best


def held_out(
    recipe: Recipe, problem: Problem, folds: Sequence[Fold], grid: Sequence[Any]
) -> Iterator[list[np.ndarray]]:
    """Yield the scores of each fold's held-out rows, for one value before the next is fitted.

    Parameters
    ----------
    recipe, problem, folds, grid
        As for `choose`.

    Yields
    ------
    list of np.ndarray
        For each fold, scores of shape (m, k).
    """
    if not (isinstance(recipe, Linear) and isinstance(recipe.solver, str)):
        yield from recipe.held_out(problem, folds, grid)
        return
    from bottleneck.solvers.path import step_path

    rows, codes, loss = problem.reduction().rows, problem.targets.codes, recipe.solver
    weights = np.stack([problem.sample_weights(fold.fit) for fold in folds], axis=1)
    step = step_path(rows, codes, weights, loss, tolerance=_TOLERANCE)
    for value in grid:
        solved = solutions_of(step(value), loss, len(problem.targets.classes))
        yield [
            rows[fold.held] @ weight.T + bias
            for fold, (weight, bias, _) in zip(folds, solved, strict=True)
        ]
