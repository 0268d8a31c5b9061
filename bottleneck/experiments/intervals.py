"""Confidence intervals of means over folds, and of shares."""

from collections import Counter
from collections.abc import Sequence
from math import sqrt
from statistics import mean, stdev

from bottleneck.errors import UsageError
from bottleneck.experiments.log import Experiment

__all__ = ["half_width", "held_out_ratio", "interval_of", "share_interval"]

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
    values = [float(fold[metric]) for fold in experiment.folds]
    if len(values) < 2:  # noqa: PLR2004 - an interval needs two
        return None
    half = half_width(values, held_out_ratio(experiment))
    return mean(values) - half, mean(values) + half


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
    from scipy.special import stdtrit

    quantile = float(stdtrit(len(values) - 1, 1 - (1 - _CONFIDENCE) / (2 * comparisons)))
    return quantile * stdev(values) * sqrt(1 / len(values) + held_out_ratio)


def share_interval(part: int, whole: int) -> tuple[float, float]:
    """Return the 95% score interval of a share.

    Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference.

    Parameters
    ----------
    part, whole : int
        Number of images of which something is true, and of all images, at least 1.

    Returns
    -------
    (float, float)
    """
    from scipy.stats import binomtest

    found = binomtest(part, whole).proportion_ci(_CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)
