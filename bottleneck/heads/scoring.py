"""How good scores are."""

import numpy as np

from bottleneck.heads.calibration import calibration_error
from bottleneck.heads.probabilities import log_losses, log_probabilities
from bottleneck.labels import Targets

__all__ = [
    "average_precisions",
    "decide",
    "decision_metrics",
    "probability_metrics",
    "score_metrics",
]


def decide(scores: np.ndarray, *, multilabel: bool) -> np.ndarray:
    """Return which classes the scores give each row, bool of shape (n, k).

    The highest score wins; where a row may be of several classes, all above zero do.
    """
    if multilabel:
        return np.asarray(scores > 0)
    return np.asarray(scores.argmax(axis=1)[:, None] == np.arange(scores.shape[1]))


def average_precisions(scores: np.ndarray, targets: Targets) -> list[float | None]:
    """Return the average precision of each class; None of one that no row is of."""
    from sklearn.metrics import average_precision_score

    return [
        float(average_precision_score(own, column)) if own.any() else None
        for own, column in zip(targets.indicators.T, scores.T, strict=True)
    ]


def score_metrics(
    link: str, scores: np.ndarray, targets: Targets, temperature: float = 1.0
) -> dict[str, float]:
    """Return metrics by name: `decision_metrics` and `probability_metrics`."""
    return {
        **decision_metrics(scores, targets),
        **probability_metrics(link, scores, targets, temperature),
    }


def decision_metrics(scores: np.ndarray, targets: Targets) -> dict[str, float]:
    """Return how good the classes are that scores give.

    ``accuracy`` is the share of rows that got their own class (all of their classes, where there
    may be several); ``balanced_accuracy`` the mean share over the classes (of rows told rightly,
    half for those of the class and half for the others, where there may be several);
    ``average_precision`` the mean over the classes, where there may be several.

    Parameters
    ----------
    scores : np.ndarray
        Shape (n, k).
    targets : Targets
        n rows.
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
    return found


def probability_metrics(
    link: str, scores: np.ndarray, targets: Targets, temperature: float = 1.0
) -> dict[str, float]:
    """Return how good the probabilities are that scores become.

    ``log_loss`` is the mean of `log_losses`; ``calibration_error`` as the function of that name
    has it.

    Parameters
    ----------
    link : str
        See `bottleneck.heads.probabilities.link_of`.
    scores : np.ndarray
        Shape (n, k).
    targets : Targets
        n rows.
    temperature : float
        Divides the scores.
    """
    probabilities = np.exp(log_probabilities(link, scores, temperature))
    return {
        "log_loss": float(log_losses(link, scores, targets, temperature).mean()),
        "calibration_error": calibration_error(probabilities, targets),
    }
