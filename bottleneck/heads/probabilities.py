"""From scores to probabilities."""

import numpy as np

from bottleneck.labels import Targets

__all__ = ["link_of", "log_losses", "log_probabilities"]


def link_of(clf: str, *, multilabel: bool) -> str:
    """Return how a classifier's scores become probabilities.

    ``independent``: each class by the sigmoid of its own score, where a row may be of several;
    ``one_vs_rest``: sigmoids that are divided by their sum, for ``logreg``; else ``softmax``.
    """
    if multilabel:
        return "independent"
    return "one_vs_rest" if clf == "logreg" else "softmax"


def log_probabilities(link: str, scores: np.ndarray, temperature: float) -> np.ndarray:
    """Return log probabilities of shape (n, k).

    Parameters
    ----------
    link : str
        See `link_of`.
    scores : np.ndarray
        Shape (n, k).
    temperature : float
        Divides the scores.
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
    link: str, scores: np.ndarray, targets: Targets, temperature: float, *, smooth: bool = False
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
        Laplace's rule of succession makes of n rows that are all told rightly.
    """
    own, classes = log_probabilities(link, scores, temperature), scores.shape[1]
    indicators = targets.indicators
    if targets.multilabel:
        others = log_probabilities(link, -scores, temperature)
        shares = _shares(indicators, 2, smooth=smooth)
        return np.asarray(-(shares * own + (1 - shares) * others).mean(axis=1))
    return np.asarray(-(_shares(indicators, classes, smooth=smooth) * own).sum(axis=1))


def _shares(indicators: np.ndarray, answers: int, *, smooth: bool) -> np.ndarray:
    if not smooth:
        return indicators
    total = len(indicators) + answers
    return np.where(indicators, 1 - (answers - 1) / total, 1 / total)
