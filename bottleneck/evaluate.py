"""Metrics of a head on held-out features, with confidence intervals."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

from bottleneck.errors import DataError, UsageError
from bottleneck.features import SPLITS, Features
from bottleneck.files import atomic_write
from bottleneck.heads import Head, calibration_error

__all__ = ["ClassMetrics", "Evaluation", "evaluate_head"]


@dataclass(frozen=True)
class ClassMetrics:
    """One class's share in an evaluation.

    Attributes
    ----------
    label : str
        The class.
    images : int
        Images that carry the label.
    precision, recall : float or None
        None where no image was given the label, or none carries it.
    """

    label: str
    images: int
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class Evaluation:
    """How a head does on a split.

    Attributes
    ----------
    split : str
        ``test``, ``val`` or ``train``.
    images : int
        Images evaluated.
    leaks : int
        Those among them whose very bytes stand in another split as well.
    accuracy : float
        Share of images given their own label.
    accuracy_interval : tuple of float
        95% score interval of the accuracy (Wilson 1927, Probable Inference, the Law of Succession,
        and Statistical Inference).
    balanced_accuracy : float
        Mean recall of the classes that have images.
    log_loss : float
        Mean negative log of the probability given to an image's own label, in nats.
    calibration_error : float
        How far the probabilities are from the shares of right labels, see
        `bottleneck.heads.calibration_error`.
    classes : list of ClassMetrics
        In the head's order.
    confusion : list of list of int
        Row: the label carried; column: the label given.
    """

    split: str
    images: int
    leaks: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    balanced_accuracy: float
    log_loss: float
    calibration_error: float
    classes: list[ClassMetrics]
    confusion: list[list[int]]

    def as_dict(self) -> dict[str, Any]:
        """Return the evaluation as JSON holds it."""
        return asdict(self)

    def save(self, file: str | Path) -> None:
        """Write the evaluation as JSON, whole or not at all."""
        atomic_write(Path(file), json.dumps(self.as_dict(), indent=2) + "\n")


def evaluate_head(head: Head, features: Features, split: str = "test") -> Evaluation:
    """Evaluate a head on the images of one split.

    Parameters
    ----------
    head : Head
        Fitted on the same layer.
    features : Features
        As `bottleneck.features.features_of` loads them for the head.
    split : str
        ``test``; or ``val`` or ``train``, whose scores are too good to quote.

    Raises
    ------
    UsageError
        There is no such split.
    DataError
        The split has no images, or a class that the head does not know.
    """
    if split not in SPLITS:
        raise UsageError(f"no split {split!r}; expected one of {', '.join(SPLITS)}")
    held = features.split(split)
    if not len(held):
        there = sorted(set(features.splits) - {""})
        raise DataError(
            f"image set {features.images.name!r} has no {split} images, only "
            f"{', '.join(there) or 'unlabelled ones'}; add a {split} folder and extract and fit "
            f"again, or name another with --split"
        )
    strange = sorted(set(held.labels) - set(head.classes))
    if strange:
        raise DataError(
            f"the {split} images have the class {str(strange[0])!r} that the head was not fitted "
            f"on; expected only {', '.join(head.classes)}: add training images of it and fit again"
        )
    targets = np.searchsorted(head.classes, held.labels)
    scores = head.decision_function(held.X)
    probabilities, given = head.probabilities(scores), scores.argmax(axis=1)
    confusion = confusion_matrix(targets, given, labels=range(len(head.classes)))
    own = probabilities[np.arange(len(held)), targets]
    leaks = int(np.isin(held.digests, features.images.leaks).sum())
    error = calibration_error(probabilities, targets)
    summary = _summarise(split, head.classes, confusion, own)
    return replace(summary, leaks=leaks, calibration_error=error)


def _summarise(
    split: str, labels: tuple[str, ...], confusion: np.ndarray, own: np.ndarray
) -> Evaluation:
    right, carried, given = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    classes = [
        ClassMetrics(label, int(n), _share(hits, called), _share(hits, n))
        for label, hits, n, called in zip(labels, right, carried, given, strict=True)
    ]
    interval = binomtest(int(right.sum()), int(carried.sum())).proportion_ci(method="wilson")
    recalls = [found.recall for found in classes if found.recall is not None]
    return Evaluation(
        split=split,
        images=int(carried.sum()),
        leaks=0,
        accuracy=float(right.sum() / carried.sum()),
        accuracy_interval=(float(interval.low), float(interval.high)),
        balanced_accuracy=float(np.mean(recalls)),
        log_loss=float(np.abs(np.log(np.maximum(own, np.finfo(own.dtype).tiny))).mean()),
        calibration_error=0.0,
        classes=classes,
        confusion=confusion.tolist(),
    )


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
