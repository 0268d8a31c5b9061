"""How far probabilities are what they say, and the temperature that brings them there."""

import numpy as np
from scipy.optimize import minimize_scalar

from bottleneck.heads.head import log_probabilities

__all__ = ["calibration_error", "fit_temperature"]

_WIDEST = 100.0
_BINS = 15


def fit_temperature(clf: str, scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the temperature with the lowest log loss, between 1/100 and 100.

    Scores that separate the classes would have it at 0. So a class's own share in the targets is
    less than 1 by what a uniform prior makes of its count (Platt 1999, Probabilistic Outputs for
    Support Vector Machines, section 2.2).

    Parameters
    ----------
    clf : str
        Whose scores they are, see `bottleneck.heads.head.log_probabilities`.
    scores : np.ndarray
        Held-out scores of shape (n, k).
    targets : np.ndarray
        int of shape (n,).
    """
    n_classes = scores.shape[1]
    counts = np.bincount(targets, minlength=n_classes)[targets]
    shares = np.repeat(1 / (counts[:, None] + n_classes), n_classes, axis=1)
    shares[np.arange(len(targets)), targets] *= counts + 1

    def log_loss(log_temperature: float) -> float:
        scaled = log_probabilities(clf, scores, np.exp(log_temperature))
        return float(-(shares * scaled).sum(axis=1).mean())

    widest = np.log(_WIDEST)
    found = minimize_scalar(log_loss, bounds=(-widest, widest), method="bounded")
    return float(np.exp(found.x))


def calibration_error(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Return the expected calibration error of the classes predicted.

    The mean distance, over fifteen equal bins of the highest probability, of its mean from the
    share of rows that are of that class, each bin by its rows (Guo et al. 2017, On Calibration of
    Modern Neural Networks, section 2).

    Parameters
    ----------
    probabilities : np.ndarray
        Shape (n, k).
    targets : np.ndarray
        int of shape (n,).
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == targets
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(targets))
