"""Confidence intervals of means over folds or groups, and of shares."""

from collections import Counter
from collections.abc import Hashable, Sequence
from math import inf, sqrt
from statistics import NormalDist, mean, stdev
from typing import TYPE_CHECKING

from bottleneck.errors import UsageError
from bottleneck.experiments.log import Experiment

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "RULE_OF_THREE",
    "half_of",
    "half_width",
    "held_out_ratio",
    "interval_of",
    "paired_gain",
    "share_interval",
    "standard_error",
    "within_range",
]

RULE_OF_THREE = 3
"""An event not seen in n images has a rate below 3 / n (Hanley and Lippman-Hand 1983, If Nothing
Goes Wrong, Is Everything All Right?)."""
_CONFIDENCE = 0.95


def interval_of(experiment: Experiment, metric: str) -> tuple[float, float] | None:
    """Return the 95% interval of an experiment's mean, as in `bottleneck.experiments.compare`.

    Parameters
    ----------
    experiment : Experiment
        An experiment with the metric.
    metric : str
        The metric.

    Returns
    -------
    (float, float) or None
        None for a single fold. Of draws that are scored on the same ``val`` images, it is that of
        the draws alone.
    """
    half, centre = half_of(experiment, metric), mean(fold[metric] for fold in experiment.folds)
    return None if half is None else within_range(centre - half, centre + half, metric)


def half_of(experiment: Experiment, metric: str) -> float | None:
    """Return half the width of the 95% interval of an experiment's mean, wherever the range ends.

    Parameters
    ----------
    experiment, metric : Experiment, str
        As for `interval_of`.

    Returns
    -------
    float or None
        None for a single fold.
    """
    values = [float(fold[metric]) for fold in experiment.folds]
    several = len(values) > 1
    return half_width(values, held_out_ratio(experiment)) if several else None


def within_range(low: float, high: float, metric: str) -> tuple[float, float]:
    """Return an interval without what lies outside of a metric's range.

    Parameters
    ----------
    low, high : float
        The interval of a mean.
    metric : str
        The metric: of all but log losses, the range ends at 1.

    Returns
    -------
    (float, float)
    """
    return max(0.0, low), high if metric.endswith("log_loss") else min(1.0, high)


def held_out_ratio(experiment: Experiment) -> float:
    """Return the number of held-out images per training image, over all folds.

    Parameters
    ----------
    experiment : Experiment
        An experiment.

    Returns
    -------
    float
        With few shots, as if all images that are not held out were fitted on: draws overlap less,
        so that intervals are slightly too wide.

    Raises
    ------
    UsageError
        It has a single fold.
    """
    images: Counter[float] = Counter()
    for fold in experiment.folds:
        images[fold["repeat"]] += int(fold["images"])
    trained = sum(images[fold["repeat"]] - fold["images"] for fold in experiment.folds)
    if not trained:
        raise UsageError(
            f"experiment {experiment.number} has only one fold, but an interval needs at least "
            f"two; compare experiments of two folds or more"
        )
    return images.total() / trained


def half_width(values: Sequence[float], held_out_ratio: float, comparisons: int = 1) -> float:
    """Return half the width of the 95% interval of a mean over folds, as in `compare`.

    Parameters
    ----------
    values : sequence of float
        Values of two or more folds.
    held_out_ratio : float
        Held-out images per training image.
    comparisons : int
        Number of simultaneous intervals (Bonferroni correction).

    Returns
    -------
    float
        In the unit of the values.
    """
    quantile = _quantile(len(values), comparisons)
    return quantile * stdev(values) * sqrt(1 / len(values) + held_out_ratio)


def _quantile(count: int, comparisons: int = 1) -> float:
    """Return Student's t for the mean of so many values, two-sided."""
    from scipy.special import stdtrit

    return float(stdtrit(count - 1, 1 - (1 - _CONFIDENCE) / (2 * comparisons)))


def standard_error(
    values: "Sequence[float] | np.ndarray", groups: "Sequence[Hashable] | np.ndarray"
) -> float:
    """Return the standard error of a mean over images, of which some are alike.

    Values of one group depend on each other, so that groups are counted, not images: the variance
    is that of the groups' sums (Liang and Zeger 1986, Longitudinal Data Analysis Using Generalized
    Linear Models). Where each image is a group of its own, it is the usual one.

    Parameters
    ----------
    values : sequence of float, or np.ndarray
        Shape (n,): values of images.
    groups : sequence of hashable, or np.ndarray
        Shape (n,): the group of each image.

    Returns
    -------
    float
        In the unit of the values; infinite if there is a single group.
    """
    import numpy as np

    centred = np.asarray(values, float)
    names, own = np.unique(np.asarray(groups), return_inverse=True)
    sums, units = np.bincount(own, centred - centred.mean()), len(names)
    if units == 1:
        return inf
    return float(np.sqrt((sums**2).sum() * units / (units - 1)) / len(centred))


def paired_gain(
    changes: Sequence[float], groups: Sequence[Hashable]
) -> tuple[float, tuple[float, float]]:
    """Return the mean change over images, and its 95% interval, in which groups are counted.

    Parameters
    ----------
    changes : sequence of float
        The change of each image, from -1 to 1.
    groups : sequence of hashable
        The group of each image.

    Returns
    -------
    gain : float
        The mean.
    interval : (float, float)
        No narrower than what `RULE_OF_THREE` leaves.
    """
    gain, units = mean(changes), len(set(groups))
    half = _quantile(units) * standard_error(changes, groups) if units > 1 else 0.0
    half = max(half, RULE_OF_THREE / units)
    return gain, (gain - half, gain + half)


def share_interval(seen: Sequence[bool], groups: Sequence[Hashable]) -> tuple[float, float]:
    """Return the 95% score interval of a share of images, of which some are alike.

    Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference. Where groups
    have several images, these are counted as fewer: their number is divided by the ratio of the
    squared half widths with and without groups (Korn and Graubard 1998, Confidence Intervals for
    Proportions with Small Expected Number of Positive Counts Estimated from Survey Data).

    Parameters
    ----------
    seen : sequence of bool
        Whether something is true of an image; at least one.
    groups : sequence of hashable
        The group of each image.

    Returns
    -------
    (float, float)
        All shares from 0 to 1 if there is a single group of several images.
    """
    values = list(map(float, seen))
    share, count, units = mean(values), float(len(values)), len(set(groups))
    quantile = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)
    if units < count:
        if units == 1:
            return 0.0, 1.0
        wide = _quantile(units) * standard_error(values, groups)
        alike = units * (quantile / _quantile(units)) ** 2  # if a group is all right, or all wrong
        count = min(count, share * (1 - share) * (quantile / wide) ** 2) if wide else alike
    square = quantile**2 / count
    centre = (share + square / 2) / (1 + square)
    half = sqrt(square * share * (1 - share) + square**2 / 4) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)
