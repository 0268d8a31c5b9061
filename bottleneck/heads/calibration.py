"""How far probabilities are what they say, and the temperature that brings them there."""

import numpy as np

from bottleneck.heads.probabilities import log_losses
from bottleneck.labels import Targets

__all__ = ["calibration_error", "fit_temperature"]

_WIDEST = 100.0
_BINS = 15


def fit_temperature(link: str, scores: np.ndarray, targets: Targets) -> float:
    """Return the temperature with the lowest log loss, between 1/100 and 100.

    Scores that separate the classes would have it at 0; so the shares of the targets are smoothed.

    Parameters
    ----------
    link : str
        See `bottleneck.heads.probabilities.link_of`.
    scores : np.ndarray
        Held-out scores of shape (n, k).
    targets : Targets
        n rows.
    """
    from scipy.optimize import minimize_scalar

    def log_loss(log_temperature: float) -> float:
        temperature = float(np.exp(log_temperature))
        return float(log_losses(link, scores, targets, temperature, smooth=True).mean())

    widest = np.log(_WIDEST)
    found = minimize_scalar(log_loss, bounds=(-widest, widest), method="bounded")
    return float(np.exp(found.x))


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
