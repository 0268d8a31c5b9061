"""Choose `C` in steps, so that the values that overfit, which take longest, are not fitted."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bottleneck.heads.problem import Fold, Problem
from bottleneck.heads.recipes import Linear, Recipe
from bottleneck.heads.scoring import fit_temperature, log_losses
from bottleneck.solvers import is_reducible
from bottleneck.solvers.closed_form import solutions_of

__all__ = ["choose_stepwise", "held_out", "held_rows"]

_TOLERANCE = 1e-7
"""Of the objective: that of single precision, which scores on a few hundred rows do not exceed."""
_FIRST = 3
"""The candidate for `C` to begin with: smaller ones are rarely the best."""
_CLEAR_RISE = 0.01
"""A log loss that is larger by this fraction ends the search for `C`; so do two rises."""


def held_rows(folds: Sequence[Fold]) -> np.ndarray:
    """Return the indices of the held-out rows, one fold after the other.

    Parameters
    ----------
    folds : sequence of Fold
        Folds of n rows.

    Returns
    -------
    np.ndarray
    """
    return np.concatenate([np.flatnonzero(fold.held) for fold in folds])


def choose_stepwise(
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
    held = problem.targets.take(held_rows(folds))
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
        As for `choose_stepwise`.

    Yields
    ------
    list of np.ndarray
        For each fold, scores of shape (m, k).
    """
    if not (isinstance(recipe, Linear) and recipe.streams and is_reducible(problem.X)):
        yield from recipe.held_out(problem, folds, grid)
        return
    from bottleneck.solvers.path import step_path

    rows, codes, loss = problem.reduction().rows, problem.targets.codes, str(recipe.solver)
    weights = np.stack([problem.sample_weights(fold.fit) for fold in folds], axis=1)
    step = step_path(rows, codes, weights, loss, tolerance=_TOLERANCE)
    for value in grid:
        solved = solutions_of(step(value), loss, len(problem.targets.classes))
        yield [
            rows[fold.held] @ weight.T + bias
            for fold, (weight, bias, _) in zip(folds, solved, strict=True)
        ]
