"""From scores to probabilities and the temperature that calibrates them, and how good both are."""

import numpy as np

from bottleneck.fields import checked
from bottleneck.labels import Targets

__all__ = [
    "average_precisions",
    "calibration_error",
    "decide",
    "fit_temperature",
    "link_of",
    "log_losses",
    "log_probabilities",
    "score_metrics",
]

_WIDEST = 100.0
_BINS = 15


def link_of(clf: str, *, multilabel: bool) -> str:
    """Return how a classifier's scores become probabilities.

    ``independent``: each class by the sigmoid of its own score, where a row may be of several;
    ``one_vs_rest``: sigmoids that are divided by their sum, for ``logreg``; else ``softmax``.

    Parameters
    ----------
    clf : str
        Name of the classifier.
    multilabel : bool
        Whether a row may be of several classes.

    Returns
    -------
    str
    """
    if multilabel:
        return "independent"
    return "one_vs_rest" if clf == "logreg" else "softmax"


def log_probabilities(link: str, scores: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """Return log probabilities of shape (n, k).

    Parameters
    ----------
    link : str
        See `link_of`.
    scores : np.ndarray
        Shape (n, k).
    temperature : float or np.ndarray
        Divides the scores; of shape (n, 1), those of each row.

    Returns
    -------
    np.ndarray
        Shape (n, k).
    """
    from scipy.special import log_expit, log_softmax, logsumexp

    scaled = scores / temperature
    if link == "softmax":
        return np.asarray(log_softmax(scaled, axis=1))
    each = log_expit(scaled)
    if link == "independent":
        return np.asarray(each)
    return np.asarray(each - logsumexp(each, axis=1, keepdims=True))


def log_losses(
    link: str,
    scores: np.ndarray,
    targets: Targets,
    temperature: float | np.ndarray,
    *,
    smooth: bool = False,
) -> np.ndarray:
    """Return each row's negative log probability of its class, in nats, of shape (n,).

    Where a row may be of several classes, it is the mean over all k of being right about each.

    Parameters
    ----------
    link, scores, temperature
        As for `log_probabilities`.
    targets : Targets
        n rows.
    smooth : bool
        Whether a row's own class has less than the whole share, as if one row more were wrong: what
        Laplace's rule of succession makes of n rows that are all classified correctly.

    Returns
    -------
    np.ndarray
        Shape (n,).
    """
    own, shares = log_probabilities(link, scores, temperature), targets.indicators
    if smooth:
        answers = 2 if targets.multilabel else scores.shape[1]
        total = len(targets) + answers
        shares = np.where(shares, 1 - (answers - 1) / total, 1 / total)
    if not targets.multilabel:
        return np.asarray(-(shares * own).sum(axis=1))
    others = log_probabilities(link, -scores, temperature)
    return np.asarray(-(shares * own + (1 - shares) * others).mean(axis=1))


def fit_temperature(link: str, scores: np.ndarray, targets: Targets) -> float:
    """Return the temperature with the lowest log loss, between 1/100 and 100.

    Scores that separate the classes would have it at 0; so the shares of the targets are smoothed.

    Parameters
    ----------
    link : str
        See `link_of`.
    scores : np.ndarray
        Held-out scores of shape (n, k).
    targets : Targets
        n rows.

    Returns
    -------
    float
    """
    from scipy.optimize import minimize_scalar

    def log_loss(log_temperature: float) -> float:
        temperature = float(np.exp(log_temperature))
        return float(log_losses(link, scores, targets, temperature, smooth=True).mean())

    widest = np.log(_WIDEST)
    found = minimize_scalar(log_loss, bounds=(-widest, widest), method="bounded")
    return float(np.exp(found.x))


@checked
def calibration_error(probabilities: np.ndarray, targets: Targets) -> float:
    """Return the expected calibration error of the classes predicted.

    The mean distance, over fifteen equal bins of the highest probability, of its mean from the
    share of rows that are of that class, each bin by its rows (Guo et al. 2017, On Calibration of
    Modern Neural Networks, section 2). Where a row may be of several classes, each of them is a
    decision of its own, with the probability of the likelier answer.

    Parameters
    ----------
    probabilities : np.ndarray
        Shape (n, k).
    targets : Targets
        n rows.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    WrongTypeError
        `probabilities` is no array.
    """
    if targets.multilabel:
        confidence = np.maximum(probabilities, 1 - probabilities).ravel()
        right = ((probabilities > 0.5) == targets.codes).ravel()  # noqa: PLR2004 - the likelier
    else:
        confidence = probabilities.max(axis=1)
        right = probabilities.argmax(axis=1) == targets.codes
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(right))


def decide(scores: np.ndarray, *, multilabel: bool) -> np.ndarray:
    """Return which classes the scores give each row, bool of shape (n, k).

    The highest score wins; where a row may be of several classes, all above zero do.

    Parameters
    ----------
    scores : np.ndarray
        Shape (n, k).
    multilabel : bool
        Whether a row may be of several classes.

    Returns
    -------
    np.ndarray
    """
    if multilabel:
        return np.asarray(scores > 0)
    return np.asarray(scores.argmax(axis=1)[:, None] == np.arange(scores.shape[1]))


def average_precisions(scores: np.ndarray, targets: Targets) -> list[float | None]:
    """Return the average precision of each class; None of one that no row is of.

    Parameters
    ----------
    scores : np.ndarray
        Shape (n, k).
    targets : Targets
        n rows of k classes.

    Returns
    -------
    list of float or None
        k values from 0 to 1.
    """
    from sklearn.metrics import average_precision_score

    return [
        float(average_precision_score(own, column)) if own.any() else None
        for own, column in zip(targets.indicators.T, scores.T, strict=True)
    ]


def score_metrics(
    link: str, scores: np.ndarray, targets: Targets, temperature: float | np.ndarray = 1.0
) -> dict[str, float]:
    """Return how good scores are, the classes that they give, and their probabilities.

    ``accuracy`` is the share of rows that got their own class (all of their classes, where there
    may be several); ``balanced_accuracy`` the mean share over the classes (of rows classified
    correctly, half for those of the class and half for the others, where there may be several);
    ``average_precision`` the mean over the classes, where there may be several; ``log_loss`` the
    mean of `log_losses`; ``calibration_error`` as the function of that name has it.

    Parameters
    ----------
    link : str
        See `link_of`.
    scores : np.ndarray
        Shape (n, k).
    targets : Targets
        n rows.
    temperature : float or np.ndarray
        Divides the scores where they become probabilities; of shape (n, 1), those of each row.

    Returns
    -------
    dict of str to float
        Metrics by name.
    """
    given, carried = decide(scores, multilabel=targets.multilabel), targets.indicators
    with np.errstate(invalid="ignore"):
        recalls = (given & carried).sum(axis=0) / carried.sum(axis=0)
        if targets.multilabel:
            recalls = (recalls + (~given & ~carried).sum(axis=0) / (~carried).sum(axis=0)) / 2
    found = {
        "accuracy": float((given == carried).all(axis=1).mean()),
        "balanced_accuracy": float(np.nanmean(recalls)) if not np.isnan(recalls).all() else 0.0,
    }
    if targets.multilabel:
        each = [value for value in average_precisions(scores, targets) if value is not None]
        found["average_precision"] = float(np.mean(each)) if each else 0.0
    probabilities = np.exp(log_probabilities(link, scores, temperature))
    return {
        **found,
        "log_loss": float(log_losses(link, scores, targets, temperature).mean()),
        "calibration_error": calibration_error(probabilities, targets),
    }
