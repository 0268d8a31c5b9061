"""Experiments beside each other: which is best, and whether one is better than another."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import sqrt
from statistics import mean, stdev
from typing import Any

from bottleneck.errors import DataError, UnknownNameError, UsageError, did_you_mean
from bottleneck.experiments.log import Experiment

__all__ = [
    "LOWER_IS_BETTER",
    "Comparison",
    "Ranked",
    "Score",
    "compare",
    "default_metric",
    "half_width",
    "rank",
    "scores",
]

LOWER_IS_BETTER = frozenset({"calibration_error", "log_loss"})
_NO_METRICS = ("repeat", "fold", "images")
_FOLDS_DEPEND_ON = ("image_set", "split_digests", "cv", "repeats", "seed")
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Score:
    """What an experiment reached in one metric.

    Attributes
    ----------
    mean : float
        Over the folds.
    std : float or None
        Deviation over the folds; None of one fold.
    """

    mean: float
    std: float | None


@dataclass(frozen=True)
class Ranked(Score):
    """What an `experiment` reached in the metric that it is sorted by."""

    experiment: Experiment


@dataclass(frozen=True)
class Comparison:
    """Two experiments, paired over the same folds.

    Attributes
    ----------
    first, second : int
        Their numbers.
    metric : str
        What was compared.
    means : tuple of float
        The metric's mean over the folds, of the first and of the second.
    difference : float
        The first mean less the second.
    interval : tuple of float
        95% confidence interval of the difference.
    folds : int
        How many were paired.
    """

    first: int
    second: int
    metric: str
    means: tuple[float, float]
    difference: float
    interval: tuple[float, float]
    folds: int

    @property
    def better(self) -> int | None:
        """The number of the better one; None where the interval includes 0."""
        low, high = self.interval
        if low <= 0 <= high:
            return None
        return self.first if (low > 0) != (self.metric in LOWER_IS_BETTER) else self.second


def scores(experiment: Experiment) -> dict[str, Score]:
    """Return what an experiment reached, by the metrics that its folds have."""
    found = {}
    for name in experiment.folds[0]:
        if name not in _NO_METRICS:
            values = [float(fold[name]) for fold in experiment.folds]
            found[name] = Score(mean(values), stdev(values) if len(values) > 1 else None)
    return found


def default_metric(experiments: Iterable[Experiment]) -> str:
    """Return ``average_precision`` where all experiments have several labels, else ``accuracy``."""
    found = [scores(each) for each in experiments]
    several = found and all("average_precision" in each for each in found)
    return "average_precision" if several else "accuracy"


def rank(
    experiments: Sequence[Experiment],
    metric: str = "accuracy",
    where: Mapping[str, str] | None = None,
) -> list[Ranked]:
    """Sort experiments by a metric, best first.

    Parameters
    ----------
    experiments : sequence of Experiment
        Those that do not have the metric are left out.
    metric : str
        Higher is better, but for those of `LOWER_IS_BETTER`.
    where : mapping of str to str, optional
        Only those whose settings, as they are printed, have these values.

    Raises
    ------
    UnknownNameError
        No experiment has the metric, or such a setting.
    """
    found = [(each, scores(each)) for each in _filter(experiments, where or {})]
    metrics = {*chain.from_iterable(its for _, its in found)}
    if found:
        _check_metric(metric, metrics, "these experiments")
    ranked = [
        Ranked(its[metric].mean, its[metric].std, each) for each, its in found if metric in its
    ]
    return sorted(ranked, key=lambda each: each.mean, reverse=metric not in LOWER_IS_BETTER)


def compare(first: Experiment, second: Experiment, metric: str = "accuracy") -> Comparison:
    """Compare two experiments over the same folds.

    Folds share the images they train on, so that their differences are not independent. The
    interval is that of the corrected resampled t statistic, whose variance has the factor
    1 / folds + held out / trained on (Nadeau and Bengio 2003, Inference for the Generalization
    Error, section 4; with repetitions Bouckaert and Frank 2004, Evaluating the Replicability of
    Significance Tests for Comparing Learning Algorithms, section 3).

    Parameters
    ----------
    first, second : Experiment
        Cross-validated on the same images, splits and folds.
    metric : str
        One that both have.

    Raises
    ------
    DataError
        Their folds are not the same.
    UnknownNameError
        One does not have the metric.
    UsageError
        They were not cross-validated, which leaves nothing to tell an interval from.
    """
    _check_paired(first, second)
    for each in (first, second):
        _check_metric(metric, scores(each), f"experiment {each.number}")
    pairs = list(zip(_by_fold(first), _by_fold(second), strict=True))
    differences = [one[metric] - other[metric] for one, other in pairs]
    difference = mean(differences)
    half = half_width(differences, _held_out_ratio(first))
    return Comparison(
        first=first.number,
        second=second.number,
        metric=metric,
        means=(mean(one[metric] for one, _ in pairs), mean(other[metric] for _, other in pairs)),
        difference=difference,
        interval=(difference - half, difference + half),
        folds=len(pairs),
    )


def _check_metric(metric: str, known: Iterable[str], where: str) -> None:
    if metric not in known:
        raise UnknownNameError(
            f"no metric {metric!r} in {where}; expected one of {', '.join(sorted(known))}"
            f"{did_you_mean(metric, known)}"
        )


def _filter(experiments: Sequence[Experiment], where: Mapping[str, str]) -> list[Experiment]:
    known = {*chain.from_iterable(each.settings for each in experiments)}
    for name in where:
        if experiments and name not in known:
            raise UnknownNameError(
                f"no setting {name!r} in these experiments; expected one of "
                f"{', '.join(sorted(known))}{did_you_mean(name, known)}"
            )
    return [
        each
        for each in experiments
        if all(
            name in each.settings and _is_printed(each.settings[name], text)
            for name, text in where.items()
        )
    ]


def _is_printed(value: Any, text: str) -> bool:
    """Return whether a text is a value as Python or JSON prints it, 1e-2 for 0.01 included."""
    try:
        return text == str(value) or json.loads(text) == value
    except ValueError:
        return False


def _check_paired(first: Experiment, second: Experiment) -> None:
    """Refuse to pair folds that are not of the same images."""
    other = [
        name for name in _FOLDS_DEPEND_ON if first.settings.get(name) != second.settings.get(name)
    ]
    folds = [
        [(fold["repeat"], fold["fold"], fold["images"]) for fold in _by_fold(each)]
        for each in (first, second)
    ]
    if other or folds[0] != folds[1]:
        raise DataError(
            f"experiments {first.number} and {second.number} cannot be paired, as they have not "
            f"the same {', '.join(other) or 'folds'}; compare experiments of one image set with "
            f"the same splits, folds and seed"
        )


def _by_fold(experiment: Experiment) -> list[dict[str, float]]:
    return sorted(experiment.folds, key=lambda fold: (fold["repeat"], fold["fold"]))


def _held_out_ratio(experiment: Experiment) -> float:
    """Return how many images are held out for each that is trained on, over all folds."""
    images: Counter[float] = Counter()
    for fold in experiment.folds:
        images[fold["repeat"]] += int(fold["images"])
    held_out = sum(fold["images"] for fold in experiment.folds)
    trained = sum(images[fold["repeat"]] - fold["images"] for fold in experiment.folds)
    if not trained:
        raise UsageError(
            f"experiment {experiment.number} has one fold only, which leaves nothing to tell an "
            f"interval from; compare experiments of two folds or more"
        )
    return held_out / trained


def half_width(values: Sequence[float], held_out_ratio: float, comparisons: int = 1) -> float:
    """Return half the width of the 95% interval of a mean over folds, as `compare` has it.

    Parameters
    ----------
    values : sequence of float
        Of each fold, two or more.
    held_out_ratio : float
        How many images are held out for each that is trained on.
    comparisons : int
        How many intervals are to hold at once (Bonferroni).
    """
    from scipy.special import stdtrit

    folds = len(values)
    quantile = float(stdtrit(folds - 1, 1 - (1 - _CONFIDENCE) / (2 * comparisons)))
    return quantile * stdev(values) * sqrt(1 / folds + held_out_ratio)
