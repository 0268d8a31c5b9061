"""Turn scores into calibrated probabilities, and compute metrics of both."""

from typing import Any

import numpy as np

from bottleneck.arguments import checked
from bottleneck.labels import Targets

__all__ = [
    "average_precisions",
    "calibration_error",
    "decide",
    "extreme_losses",
    "fit_temperature",
    "guessing_loss",
    "link_of",
    "log_losses",
    "log_probabilities",
    "reliability",
    "score_metrics",
]

_WIDEST = 100.0
_BINS = 15
_EXTREME = 14.0
"""Log loss in nats of a label that was given a probability of less than one in a million."""
_FEW = 0.05


def link_of(clf: str, *, multilabel: bool) -> str:
    """Return the name of the function that turns a classifier's scores into probabilities.

    ``independent``: a sigmoid for each class, if rows may have several; ``one_vs_rest``: sigmoids
    normalised to sum to 1, for ``logreg``; else ``softmax``.

    Parameters
    ----------
    clf : str
        Name of the classifier.
    multilabel : bool
        Whether rows may have several classes.

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
        Divides the scores; an array of shape (n, 1) has one for each row.

    Returns
    -------
    np.ndarray
        Shape (n, k).
    """
    from scipy.special import log_expit, logsumexp

    scaled = scores / temperature
    if link == "softmax":  # as SciPy's `log_softmax`, which takes twice as long for few rows
        scaled -= scaled.max(axis=1, keepdims=True)
        return np.asarray(scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)))
    each = log_expit(scaled)
    if link == "independent":
        return np.asarray(each)
    return np.asarray(each - logsumexp(each, axis=1, keepdims=True))


def log_losses(
    link: str,
    scores: np.ndarray,
    targets: Targets,
    temperature: float | np.ndarray,
) -> np.ndarray:
    """Return each row's negative log probability of its class, in nats, of shape (n,).

    If rows may have several classes, it is the mean over k binary log losses.

    Parameters
    ----------
    link, scores, temperature
        As for `log_probabilities`.
    targets : Targets
        Labels of the n rows.

    Returns
    -------
    np.ndarray
        Shape (n,).
    """
    return _losses(link, scores, targets.indicators, temperature)


def _losses(
    link: str, scores: np.ndarray, shares: np.ndarray, temperature: float | np.ndarray
) -> np.ndarray:
    own = log_probabilities(link, scores, temperature)
    if link != "independent":
        return np.asarray(-(shares * own).sum(axis=1))
    others = log_probabilities(link, -scores, temperature)
    return np.asarray(-(shares * own + (1 - shares) * others).mean(axis=1))


def extreme_losses(
    link: str, scores: np.ndarray, targets: Targets, temperature: float | np.ndarray = 1.0
) -> dict[str, Any]:
    """Return how few rows make most of the log loss, if their labels seemed all but impossible.

    Usually their features are far from all that the classifier was fitted on, as happens where a
    feature is almost constant in the training images and is divided by its standard deviation.

    Parameters
    ----------
    link, scores, targets, temperature
        As for `log_losses`.

    Returns
    -------
    dict of str to int or float
        ``extreme_images``, the number of rows, and ``extreme_loss_share``, their share of the log
        loss; 0 if it is below a half, or if they are more than one in twenty.
    """
    losses = log_losses(link, scores, targets, temperature)
    extreme = losses > _EXTREME
    share = float(losses[extreme].sum() / losses.sum()) if extreme.any() else 0.0
    told = share > 0.5 and extreme.sum() <= max(1, _FEW * len(losses))  # noqa: PLR2004 - most
    return {
        "extreme_images": int(extreme.sum()) if told else 0,
        "extreme_loss_share": share if told else 0.0,
    }


def fit_temperature(link: str, scores: np.ndarray, targets: Targets) -> float:
    """Return the temperature that minimises log loss, between 1/100 and 100.

    Targets are smoothed by Laplace's rule of succession, as for n rows that are all classified
    correctly, because separable scores would otherwise have an optimum at 0.

    Parameters
    ----------
    link : str
        See `link_of`.
    scores : np.ndarray
        Held-out scores of shape (n, k).
    targets : Targets
        Labels of the n rows.

    Returns
    -------
    float
    """
    from scipy.optimize import minimize_scalar

    answers = 2 if targets.multilabel else scores.shape[1]
    total = len(targets) + answers
    shares = np.where(targets.indicators, 1 - (answers - 1) / total, 1 / total)

    def log_loss(log_temperature: float) -> float:
        temperature = float(np.exp(log_temperature))
        return float(_losses(link, scores, shares, temperature).mean())

    widest = np.log(_WIDEST)
    found = minimize_scalar(log_loss, bounds=(-widest, widest), method="bounded")
    return float(np.exp(found.x))


def guessing_loss(targets: Targets) -> float:
    """Return the log loss of predicting the classes' shares for every row, as `log_losses` counts.

    Parameters
    ----------
    targets : Targets
        Labels of the n rows.

    Returns
    -------
    float
        In nats.
    """
    from scipy.special import entr

    shares = targets.indicators.mean(axis=0)
    return float(
        (entr(shares) + entr(1 - shares)).mean() if targets.multilabel else entr(shares).sum()
    )


@checked
def calibration_error(probabilities: np.ndarray, targets: Targets) -> float:
    """Return the expected calibration error.

    The mean difference between confidence and accuracy over fifteen equal-width bins of confidence,
    weighted by the rows in each bin (Guo et al. 2017, On Calibration of Modern Neural Networks,
    section 2). If rows may have several classes, each class is a binary decision with the
    probability of the likelier answer as its confidence.

    Parameters
    ----------
    probabilities : np.ndarray
        Shape (n, k).
    targets : Targets
        Labels of the n rows.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    WrongTypeError
        `probabilities` is not an array.
    """
    counts, confidence, right = reliability(probabilities, targets)
    return float(np.abs(confidence - right).sum() / counts.sum())


def reliability(
    probabilities: np.ndarray, targets: Targets
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how confident and how often right predictions are, in bins of equal width.

    Parameters
    ----------
    probabilities, targets : np.ndarray, Targets
        As for `calibration_error`.

    Returns
    -------
    (np.ndarray, np.ndarray, np.ndarray)
        For each of fifteen bins of confidence the number of predictions, the sum of their
        confidences, and how many are right.
    """
    if targets.multilabel:
        confidence = np.maximum(probabilities, 1 - probabilities).ravel()
        right = ((probabilities > 0.5) == targets.codes).ravel()  # noqa: PLR2004 - the likelier
    else:
        confidence = probabilities.max(axis=1)
        right = probabilities.argmax(axis=1) == targets.codes
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    found = [np.bincount(bins, each, _BINS) for each in (None, confidence, right)]
    return found[0], found[1], found[2]


def decide(scores: np.ndarray, *, multilabel: bool) -> np.ndarray:
    """Return the predicted classes of each row, bool of shape (n, k).

    The class with the highest score; if rows may have several, all with scores above zero.

    Parameters
    ----------
    scores : np.ndarray
        Shape (n, k).
    multilabel : bool
        Whether rows may have several classes.

    Returns
    -------
    np.ndarray
    """
    if multilabel:
        return np.asarray(scores > 0)
    return np.asarray(scores.argmax(axis=1)[:, None] == np.arange(scores.shape[1]))


def average_precisions(scores: np.ndarray, targets: Targets) -> list[float | None]:
    """Return the average precision of each class; None for a class without rows.

    Parameters
    ----------
    scores : np.ndarray
        Shape (n, k).
    targets : Targets
        Labels of n rows with k classes.

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
    """Return metrics of scores, of predicted classes, and of probabilities.

    ``accuracy`` is the fraction of rows whose class (or whole set of classes) is predicted
    correctly; ``balanced_accuracy`` the mean recall over the classes (or the mean of recall and
    specificity, if rows may have several classes); ``average_precision`` its mean over the classes,
    if rows may have several; ``log_loss`` the mean of `log_losses`; ``calibration_error`` the
    result of the function of that name.

    Parameters
    ----------
    link : str
        See `link_of`.
    scores : np.ndarray
        Shape (n, k).
    targets : Targets
        Labels of the n rows.
    temperature : float or np.ndarray
        Divides the scores before they become probabilities; shape (n, 1) has one for each row.

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
