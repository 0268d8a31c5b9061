"""Rank experiments, and test whether one is better than another."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from bottleneck.errors import DataError, UnknownNameError, did_you_mean
from bottleneck.experiments.intervals import half_width, held_out_ratio
from bottleneck.experiments.log import INNER, LAYER_NAMES, SKIPPED, Experiment

__all__ = [
    "LOWER_IS_BETTER",
    "Comparison",
    "Ranked",
    "Score",
    "compare",
    "default_metric",
    "folds_of_choice",
    "rank",
    "scores",
    "share_folds",
    "unselected",
]

LOWER_IS_BETTER = frozenset({"calibration_error", "log_loss"})
_NO_METRICS = ("repeat", "fold", "images")
_FOLDS_DEPEND_ON = ("image_set", "split_digests", "cv", "repeats", "seed")


def _images_of(fold: Mapping[str, float]) -> tuple[float, ...]:
    """Return the identity of a fold, and the number of images held out in it."""
    return tuple(fold.get(name, -1) for name in ("repeat", "fold", "images"))


@dataclass(frozen=True)
class Score:
    """Mean and deviation of an experiment in one metric.

    Attributes
    ----------
    mean : float
        Mean over the folds.
    std : float or None
        Standard deviation over the folds; None for a single fold.
    """

    mean: float
    std: float | None


@dataclass(frozen=True)
class Ranked(Score):
    """An `experiment`, with its score in the metric of the ranking."""

    experiment: Experiment


@dataclass(frozen=True)
class Comparison:
    """A comparison of two experiments on the same folds.

    Attributes
    ----------
    first, second : int
        Numbers of the experiments.
    metric : str
        The compared metric.
    means : tuple of float
        Means of the metric over the folds, for the first and the second.
    difference : float
        First mean minus second mean.
    interval : tuple of float
        95% confidence interval of the difference.
    folds : int
        Number of paired folds.
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
        """The number of the better experiment; None if the interval includes 0."""
        low, high = self.interval
        if low <= 0 <= high:
            return None
        return self.first if (low > 0) != (self.metric in LOWER_IS_BETTER) else self.second


def scores(experiment: Experiment) -> dict[str, Score]:
    """Return the scores of an experiment, by metric.

    Parameters
    ----------
    experiment : Experiment
        An experiment with at least one fold.

    Returns
    -------
    dict of str to Score
        Name of the metric to mean and standard deviation over the folds.
    """
    found = {}
    for name in experiment.folds[0]:
        if name not in _NO_METRICS and not name.startswith(INNER):
            values = [float(fold[name]) for fold in experiment.folds]
            found[name] = Score(mean(values), stdev(values) if len(values) > 1 else None)
    return found


def default_metric(experiments: Iterable[Experiment]) -> str:
    """Return ``average_precision`` if all experiments are multi-label, else ``accuracy``.

    Parameters
    ----------
    experiments : iterable of Experiment
        Experiments to compare.

    Returns
    -------
    str
        Name of the metric.
    """
    several = {"average_precision" in each.folds[0] for each in experiments}
    return "average_precision" if several == {True} else "accuracy"


def rank(
    experiments: Sequence[Experiment],
    metric: str = "accuracy",
    where: Mapping[str, str] | None = None,
) -> list[Ranked]:
    """Sort experiments by a metric, best first.

    Parameters
    ----------
    experiments : sequence of Experiment
        Experiments without the metric are left out.
    metric : str
        Metric to sort by; higher is better, except for those in `LOWER_IS_BETTER`.
    where : mapping of str to str, optional
        Keep only experiments whose settings, as printed, have these values.

    Returns
    -------
    list of Ranked
        The experiments with their scores.

    Raises
    ------
    UnknownNameError
        No experiment has the metric, or the setting.
    """
    if not experiments:
        return []
    known = {name for each in experiments for name in each.told}
    for name, text in (where or {}).items():
        _check_name("setting", name, known, "these experiments")
        experiments = [
            each
            for each in experiments
            if any(_is_printed(each.told[key], text) for key in _keys(name) & each.told.keys())
        ]
    found = [(each, scores(each)) for each in experiments]
    if found:
        metrics = {name for _, its in found for name in its}
        _check_name("metric", metric, metrics, "these experiments")
    ranked = [
        Ranked(its[metric].mean, its[metric].std, each) for each, its in found if metric in its
    ]
    return sorted(ranked, key=lambda each: each.mean, reverse=metric not in LOWER_IS_BETTER)


def _keys(setting: str) -> set[str]:
    """Return the keys that may have the value of a setting: a layer has several names."""
    return set(LAYER_NAMES) if setting == "layer" else {setting}


def unselected(ranked: Sequence[Ranked], metric: str) -> tuple[int, float | None]:
    """Return a score of the choice of the best experiment that nothing was selected on.

    The best score of several is too good, as it was selected on the same folds. So the choice is
    made anew for each fold, on inner folds of the other images, and scored on the fold (Varma and
    Simon 2006, Bias in error estimation when using cross-validation for model selection).

    Parameters
    ----------
    ranked : sequence of Ranked
        Best first; at least one.
    metric : str
        The metric of the ranking.

    Returns
    -------
    experiments : int
        How many, the first included, have the same folds as the first.
    score : float or None
        Mean over the folds; None if there was no choice, or an experiment has no inner folds: a
        class has too few images, or it was logged by an earlier version.
    """
    number, found = scores_of_choice(ranked, metric)
    return number, found[metric] if found else None


def scores_of_choice(ranked: Sequence[Ranked], metric: str) -> tuple[int, dict[str, float] | None]:
    """Return what `unselected` does, with the scores of the choice in all metrics."""
    best, *others = (each.experiment for each in ranked)
    among = [best, *(each for each in others if share_folds(best, each))]
    chosen = folds_of_choice(among, metric) if len(among) > 1 else None
    if chosen is None:
        return len(among), None
    names = set(scores(best)).intersection(*chosen)
    return len(among), {name: mean(fold[name] for fold in chosen) for name in names}


def folds_of_choice(
    experiments: Sequence[Experiment], metric: str
) -> list[dict[str, float]] | None:
    """Return each fold as it is scored by what is best on inner folds of the other images.

    Values of `C` that were not tried on inner folds cannot be chosen.

    Parameters
    ----------
    experiments : sequence of Experiment
        At least one; all share their folds.
    metric : str
        A metric that all have.

    Returns
    -------
    list of dict or None
        Folds in the order of their repetition and number, with all metrics of the experiment that
        is chosen for each; of a single experiment, its own. None if several cannot be chosen among,
        see `unselected`.
    """
    # As logged: in the order of the ranking, ties would go to what is best on the scored fold.
    each_folds = [_sorted_folds(one) for one in sorted(experiments, key=lambda one: one.number)]
    if len(each_folds) == 1:
        return each_folds[0]
    within, sign = INNER + metric, -1 if metric in LOWER_IS_BETTER else 1
    known = all(within in fold or SKIPPED in fold for folds in each_folds for fold in folds)
    tried = [[fold for fold in folds if within in fold] for folds in zip(*each_folds, strict=True)]
    if not (known and all(tried)):
        return None
    return [max(folds, key=lambda fold: sign * fold[within]) for folds in tried]


def share_folds(first: Experiment, second: Experiment) -> bool:
    """Return whether two experiments were fitted and scored on the same images in every fold.

    Parameters
    ----------
    first, second : Experiment

    Returns
    -------
    bool
    """
    same = first.told["shots"] == second.told["shots"]
    return same and not _folds_differ(first, second)


def compare(first: Experiment, second: Experiment, metric: str = "accuracy") -> Comparison:
    """Compare two experiments on the same folds.

    Folds share training images, so their differences are not independent. The interval is that of
    the corrected resampled t statistic, with the variance factor 1 / folds + held out / trained on
    (Nadeau and Bengio 2003, Inference for the Generalization Error, section 4; with repetitions
    Bouckaert and Frank 2004, Evaluating the Replicability of Significance Tests for Comparing
    Learning Algorithms, section 3).

    Parameters
    ----------
    first, second : Experiment
        Cross-validated on the same images, splits and folds.
    metric : str
        A metric that both have.

    Returns
    -------
    Comparison
        The difference, with its interval.

    Raises
    ------
    DataError
        Their folds differ.
    UnknownNameError
        An experiment does not have the metric.
    UsageError
        An experiment has only one fold.
    """
    if other := _folds_differ(first, second):
        raise DataError(
            f"experiments {first.number} and {second.number} cannot be paired, as they differ in "
            f"their {other}; compare experiments of one image set with the same splits, folds and "
            f"seed"
        )
    for each in (first, second):
        _check_name("metric", metric, scores(each), f"experiment {each.number}")
    values, others = ([fold[metric] for fold in _sorted_folds(each)] for each in (first, second))
    differences = [one - another for one, another in zip(values, others, strict=True)]
    difference, half = mean(differences), half_width(differences, held_out_ratio(first))
    return Comparison(
        first=first.number,
        second=second.number,
        metric=metric,
        means=(mean(values), mean(others)),
        difference=difference,
        interval=(difference - half, difference + half),
        folds=len(differences),
    )


def _sorted_folds(experiment: Experiment) -> list[dict[str, float]]:
    return sorted(experiment.folds, key=_images_of)


def _folds_differ(first: Experiment, second: Experiment) -> str:
    """Return what makes the folds of two experiments differ; `""` if they are the same."""
    other = [
        name for name in _FOLDS_DEPEND_ON if first.settings.get(name) != second.settings.get(name)
    ]
    ours, theirs = (list(map(_images_of, _sorted_folds(each))) for each in (first, second))
    return ", ".join(other) or ("" if ours == theirs else "folds")


def _check_name(kind: str, name: str, known: Iterable[str], where: str) -> None:
    if name not in known:
        raise UnknownNameError(
            f"no {kind} {name!r} in {where}; expected one of {', '.join(sorted(known))}"
            f"{did_you_mean(name, known)}"
        )


def _is_printed(value: Any, text: str) -> bool:
    """Return whether a text is a value as Python or JSON prints it, including 1e-2 for 0.01."""
    try:
        return text == str(value) or json.loads(text) == value
    except ValueError:
        return False
