"""Fit a head on the rows of a fold, with its hyperparameter chosen on folds within them."""

import numpy as np

from bottleneck.heads import MLP
from bottleneck.heads.problem import Fold, Problem
from bottleneck.heads.recipes import Recipe
from bottleneck.heads.scoring import fit_temperature, link_of, log_losses, log_probabilities
from bottleneck.heads.stepping import choose_stepwise, held_out, held_rows
from bottleneck.solvers import threads_for

__all__ = ["fit_fold"]

_INNER_FOLDS = 3


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
    value, inside = choose_stepwise(recipe, link, problem, inner, grid)
    held = problem.targets.take(held_rows(inner))
    ((scores,),) = held_out(recipe, problem, [everyone], [value])
    inner_accuracy = float((inside.argmax(axis=1) == held.codes).mean())
    return scores, fit_temperature(link, inside, held), inner_accuracy
