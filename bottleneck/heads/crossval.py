"""Metrics of classifiers on each fold."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bottleneck.heads.problem import Fold, Problem
from bottleneck.heads.recipes import Recipe
from bottleneck.heads.scoring import decision_metrics, fit_temperature, link_of, probability_metrics
from bottleneck.labels import Targets
from bottleneck.solvers import threads_for

__all__ = ["cross_validate"]


def cross_validate(
    problem: Problem, recipe: Recipe, folds: Sequence[Fold], grid: Sequence[Any]
) -> list[list[dict[str, float]]]:
    """Fit on each fold for each value of the recipe's parameter, and score what was held out.

    Probabilities are calibrated as those of a head are, but on other rows than they are judged on:
    each half of what a fold holds out is scaled by the temperature of the other half.

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
        calibrated = _calibrated(link, scores, held)
        return {
            "images": len(held),
            **decision_metrics(scores, held),
            **probability_metrics(link, calibrated, held),
        }

    with threads_for(problem.X.size):
        return [
            [metrics(fold, own) for fold, own in zip(folds, scores, strict=True)]
            for scores in recipe.held_out(problem, folds, grid)
        ]


def _calibrated(link: str, scores: np.ndarray, held: Targets) -> np.ndarray:
    """Return scores divided by temperatures that other rows have given."""
    half = np.random.default_rng(0).permutation(len(scores)) % 2 == 0
    scaled = np.array(scores, dtype=np.float64)
    for own in (half, ~half):
        if not own.all():
            scaled[own] /= fit_temperature(link, scores[~own], held.take(~own))
    return scaled
