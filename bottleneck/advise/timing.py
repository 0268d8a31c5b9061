"""Tell what advice costs before it is computed, from the time of the first fits."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bottleneck.advise.fitting import fit_fold
from bottleneck.advise.scoring import Bench, FoldScores, plan_fits
from bottleneck.heads.recipes import MLP, Recipe

__all__ = ["Timed", "seconds_of", "time_fits"]


class Timed(NamedTuple):
    """The time that fits take, estimated from the first of them.

    Attributes
    ----------
    seconds : float
        Wall time of all fits in one process.
    wide : float
        Fraction of it that grows with the number of features: their reduction.
    known : dict of bytes to tuple
        The fits that were made, for `bottleneck.advise.scoring.score_sizes`.
    """

    seconds: float
    wide: float
    known: dict[bytes, FoldScores]


def time_fits(bench: Bench, recipe: Recipe, sizes: Sequence[int]) -> Timed:
    """Fit on the smallest subset, which loads libraries, and on the largest, which is timed.

    Parameters
    ----------
    bench, recipe, sizes : Bench, Recipe, sequence of int
        As for `bottleneck.advise.scoring.score_sizes`.

    Returns
    -------
    Timed
    """
    problem, known = bench.problem, dict[bytes, FoldScores]()
    fits = sorted(plan_fits(bench, sizes)[0].items(), key=lambda each: each[1].fit.sum())
    for key, fold in dict([fits[0], fits[-1]]).items():
        start = time.perf_counter()
        known[key] = fit_fold(problem, recipe, fold)
        seconds = time.perf_counter() - start
    rows = np.array([fold.fit.sum() for _, fold in fits])
    # Half of a fit's time grows with its rows.
    work = float((1 + rows / rows[-1]).sum() / 2)
    start = time.perf_counter()
    if not isinstance(recipe, MLP):
        problem.take(fold.fit | fold.held).reduction()
    wide = min(1.0, (time.perf_counter() - start) / seconds)
    return Timed(seconds * work, wide, known)


def seconds_of(timed: Sequence[Timed], ratios: Sequence[float]) -> float:
    """Return the wall time of all fits in one process.

    Parameters
    ----------
    timed : sequence of Timed
        The first is that of the judged layer, and stands for all layers; the others are those of
        other heads.
    ratios : sequence of float
        Number of features of each layer, divided by that of the judged one.

    Returns
    -------
    float
    """
    judged, *others = timed
    layers = judged.seconds * sum(1 - judged.wide + judged.wide * ratio for ratio in ratios)
    return layers + sum(each.seconds for each in others)
