"""Search for `C` from coarse steps to fine ones, without the values that overfit and take longest.

Held-out log loss falls with `C`, and rises once the head overfits. What comes after a clear rise is
not fitted, and neither are values between coarse steps that are far from the best.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bottleneck.heads.problem import Fold, Problem
from bottleneck.heads.recipes import Linear, Recipe
from bottleneck.heads.scoring import fit_temperature, link_of, log_losses
from bottleneck.solvers import is_reducible
from bottleneck.solvers.closed_form import solutions_of

__all__ = ["Tried", "choose_stepwise", "held_out", "held_rows", "nested_scores", "search"]

_TOLERANCE = 1e-5
"""Of the objective. Held-out log losses are then within 3e-4 of exact ones near the best `C`, and
within 2e-3 where heads overfit, which is far below their standard error."""
_COARSE = 8
"""At least so many values are coarse steps, which are decades of `C` in the usual grids."""
_FIRST = 3
"""The coarse step to begin with: smaller ones are rarely the best."""
_CLEAR_RISE = 0.01
"""A log loss that is larger by this fraction ends the search for `C`; so do two rises."""


class Tried(NamedTuple):
    """A value of a hyperparameter, and what held-out rows say of it.

    Attributes
    ----------
    value : Any
        The value.
    scores : list of np.ndarray
        For each fold, the scores (m, k) of its held-out rows.
    log_loss : float
        Of all held-out rows; of classifiers with margins at the best temperature.
    """

    value: Any
    scores: list[np.ndarray]
    log_loss: float


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

    Parameters
    ----------
    recipe, link, problem, folds, grid
        As for `search`.

    Returns
    -------
    value : Any
        The chosen one.
    scores : np.ndarray
        Of the held-out rows of all folds.
    """
    best = min(search(recipe, link, problem, folds, grid), key=lambda tried: tried.log_loss)
    return best.value, np.concatenate(best.scores)


def search(
    recipe: Recipe, link: str, problem: Problem, folds: Sequence[Fold], grid: Sequence[Any]
) -> Iterator[Tried]:
    """Yield the values that may have the lowest log loss on held-out rows.

    Of iterative classifiers, at least every so-many-th value of the grid is a step, up to a clear
    rise; then those half as far from the best one, until its neighbours in the grid are tried. All
    values of other classifiers are tried.

    Parameters
    ----------
    recipe, link, problem, folds, grid
        The classifier, the link of its scores, n rows, their folds, and the values.

    Yields
    ------
    Tried
        In the order of the search.
    """
    held = problem.targets.take(held_rows(folds))

    def judged(value: Any, scores: list[np.ndarray]) -> Tried:
        each = np.concatenate(scores)
        temperature = fit_temperature(link, each, held) if recipe.margins else 1.0
        return Tried(value, scores, float(log_losses(link, each, held, temperature).mean()))

    if _is_stepwise(recipe, problem):
        score = _scorer(recipe, problem, folds)
        yield from _refined(sorted(set(grid)), lambda value: judged(value, score(value)))
    else:
        yield from map(judged, grid, recipe.held_out(problem, folds, grid))


def _refined(values: Sequence[float], judge: Callable[[float], Tried]) -> Iterator[Tried]:
    """Try ascending values in coarse steps, then ever finer around the best."""
    found: dict[int, Tried] = {}

    def best() -> int:
        return min(found, key=lambda place: found[place].log_loss)

    def attempt(places: Sequence[int]) -> Iterator[Tried]:
        rises = 0
        for place in places:
            lowest = found[best()].log_loss if found else np.inf
            found[place] = judge(values[place])
            yield found[place]
            loss = found[place].log_loss
            rises = rises + 1 if loss >= lowest else 0
            if rises > 1 or loss > (1 + _CLEAR_RISE) * lowest:
                return

    stride = 2 ** max(0, int(np.log2(len(values) / _COARSE)))
    first = min(_FIRST * stride, len(values) - 1)
    yield from attempt(range(first, len(values), stride))
    if best() == first:
        yield from attempt(range(first - stride, -1, -stride))
    while stride > 1:
        stride //= 2
        for place in (best() - stride, best() + stride):
            if 0 <= place < len(values):
                yield from attempt([place])


def nested_scores(
    recipe: Recipe, problem: Problem, fold: Fold, inner: Sequence[Fold], grid: Sequence[Any]
) -> Iterator[tuple[np.ndarray, list[np.ndarray] | None]]:
    """Yield each value's scores of a fold's held-out rows, and of those of the folds within it.

    Parameters
    ----------
    recipe, problem, grid
        As for `search`.
    fold : Fold
        Rows to fit on and rows held out.
    inner : sequence of Fold
        Folds of the rows that it fits on; there may be none.

    Yields
    ------
    scores : np.ndarray
        Shape (m, k), of the fold.
    within : list of np.ndarray or None
        For each of the inner folds; None for a value that the search in them does not try.
    """
    if not (inner and _is_stepwise(recipe, problem)):
        for own, *others in held_out(recipe, problem, [fold, *inner], grid):
            yield own, others
        return
    link = link_of(recipe.name, multilabel=problem.targets.multilabel)
    tried = {each.value: each.scores for each in search(recipe, link, problem, inner, grid)}
    for value, (own,) in zip(grid, held_out(recipe, problem, [fold], grid), strict=True):
        yield own, tried.get(value)


def held_out(
    recipe: Recipe, problem: Problem, folds: Sequence[Fold], grid: Sequence[Any]
) -> Iterator[list[np.ndarray]]:
    """Yield the scores of each fold's held-out rows, for one value before the next is fitted.

    Parameters
    ----------
    recipe, problem, folds, grid
        As for `search`.

    Yields
    ------
    list of np.ndarray
        For each fold, scores of shape (m, k).
    """
    if _is_stepwise(recipe, problem):
        yield from map(_scorer(recipe, problem, folds), grid)
    else:
        yield from recipe.held_out(problem, folds, grid)


def _is_stepwise(recipe: Recipe, problem: Problem) -> bool:
    """Return whether each value takes a fit of its own, on rows in memory."""
    return isinstance(recipe, Linear) and recipe.streams and is_reducible(problem.X)


def _scorer(
    recipe: Any, problem: Problem, folds: Sequence[Fold]
) -> Callable[[float], list[np.ndarray]]:
    """Return what fits all folds together for a `C`, and scores their held-out rows."""
    from bottleneck.solvers.path import step_path

    codes, loss = problem.targets.codes, str(recipe.solver)
    rows = problem.reduction().rows.astype(np.float32, copy=False)  # enough for the tolerance
    weights = np.stack([problem.sample_weights(fold.fit) for fold in folds], axis=1)
    step = step_path(rows, codes, weights, loss, tolerance=_TOLERANCE)

    def score(C: float) -> list[np.ndarray]:
        solved = solutions_of(step(C), loss, len(problem.targets.classes))
        return [
            rows[fold.held] @ weight.T + bias
            for fold, (weight, bias, _) in zip(folds, solved, strict=True)
        ]

    return score
