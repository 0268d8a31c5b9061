"""Metrics of classifiers on each fold."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bottleneck.heads.calibration import fit_temperature
from bottleneck.heads.probabilities import link_of
from bottleneck.heads.problem import Fold, Problem
from bottleneck.heads.recipes import Recipe
from bottleneck.heads.scoring import score_metrics
from bottleneck.solvers import threads_for

__all__ = ["cross_validate"]


def cross_validate(
    problem: Problem, recipe: Recipe, folds: Sequence[Fold], grid: Sequence[Any]
) -> list[list[dict[str, float]]]:
    """Fit on each fold for each value of the recipe's parameter, and score what was held out.

    Probabilities are those of the scores as they are; margins, which are none, are scaled by the
    temperature that suits the fold.

    Parameters
    ----------
    problem : Problem
        n rows.
    recipe : Recipe
        The classifier.
    folds : sequence of Fold
        f folds.
    grid : sequence
        Values of its parameter; None alone where it has none.

    Returns
    -------
    list of list of dict
        For each value and each fold, ``images``, how many are held out, and the metrics of
        `bottleneck.heads.scoring.score_metrics`.
    """
    link = link_of(recipe.name, multilabel=problem.targets.multilabel)

    def metrics(fold: Fold, scores: np.ndarray) -> dict[str, float]:
        held = problem.targets.take(fold.held)
        temperature = fit_temperature(link, scores, held) if recipe.margins else 1.0
        return {"images": len(held), **score_metrics(link, scores, held, temperature)}

    with threads_for(problem.X.size):
        return [
            [metrics(fold, own) for fold, own in zip(folds, scores, strict=True)]
            for scores in recipe.held_out(problem, folds, grid)
        ]
