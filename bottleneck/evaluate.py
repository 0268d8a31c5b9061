"""Metrics of a head on held-out features, with confidence intervals."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bottleneck.errors import DataError, UsageError, WrongTypeError
from bottleneck.features import SPLITS, Features
from bottleneck.fields import checked
from bottleneck.files import atomic_write
from bottleneck.heads import Head
from bottleneck.heads.scoring import average_precisions, decide, score_metrics
from bottleneck.labels import Targets

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
    average_precision : float or None
        Mean precision over the images that carry the label, ranked by score; None where none does.
    """

    label: str
    images: int
    precision: float | None
    recall: float | None
    average_precision: float | None


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
        Share of images given their own label: all of their classes, where there may be several.
    accuracy_interval : tuple of float
        95% score interval of the accuracy (Wilson 1927, Probable Inference, the Law of Succession,
        and Statistical Inference).
    balanced_accuracy : float
        Mean recall of the classes that have images; where an image may be of several classes, the
        mean over them of recall and specificity.
    average_precision : float
        Mean over the classes that have images.
    log_loss : float
        Mean negative log of the probability given to an image's own label, in nats; where there may
        be several classes, of the right answer about each.
    calibration_error : float
        How far the probabilities are from the shares of right labels, see
        `bottleneck.heads.calibration_error`.
    classes : list of ClassMetrics
        In the head's order.
    confusion : list of list of int or None
        Row: the label carried; column: the label given. None where there may be several.
    """

    split: str
    images: int
    leaks: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    balanced_accuracy: float
    average_precision: float
    log_loss: float
    calibration_error: float
    classes: list[ClassMetrics]
    confusion: list[list[int]] | None

    def as_dict(self) -> dict[str, Any]:
        """Return the evaluation as JSON holds it."""
        return asdict(self)

    def save(self, file: str | Path) -> None:
        """Write the evaluation as JSON, whole or not at all.

        Parameters
        ----------
        file : str or Path
            Where to.

        Raises
        ------
        OSError
            The folder cannot be written.
        """
        atomic_write(Path(file), json.dumps(self.as_dict(), indent=2) + "\n")


@checked
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

    Returns
    -------
    Evaluation

    Raises
    ------
    UsageError
        There is no such split.
    WrongTypeError
        The head is no `Head`, or the features are no `Features`.
    DataError
        The split has no images, or a class that the head does not know.
    """
    if not isinstance(features, Features):
        raise WrongTypeError(
            f"`features` must be Features, got {type(features).__name__}; give what "
            f"bottleneck.load_features returns"
        )
    if split not in SPLITS:
        raise UsageError(f"no split {split!r}; expected one of {', '.join(SPLITS)}")
    held = features.split(split)
    if not len(held):
        there = sorted(set(features.splits) - {""})
        raise DataError(
            f"image set {features.images.name!r} has no {split} images, only "
            f"{', '.join(there) or 'unlabelled ones'}; add a {split} folder and extract and fit "
            f"again, or name another with `split`"
        )
    try:
        targets = Targets.among(held.labels, head.classes, multilabel=head.multilabel)
    except LookupError as error:
        raise DataError(
            f"the {split} images have the class {error.args[0]!r} that the head was not fitted "
            f"on; expected only {', '.join(head.classes)}: add training images of it and fit again"
        ) from error
    leaks = int(np.isin(held.digests, features.images.leaks).sum())
    blocks = [held.X] if isinstance(held.X, np.ndarray) else held.X.blocks()
    scores = np.concatenate([head.decision_function(block) for block in blocks])
    metrics = score_metrics(head.link, scores, targets, head.temperature)
    return _evaluated(split, leaks, targets, scores, metrics)


def _evaluated(
    split: str, leaks: int, targets: Targets, scores: np.ndarray, metrics: dict[str, float]
) -> Evaluation:
    from scipy.stats import binomtest

    right = round(metrics["accuracy"] * len(targets))
    interval = binomtest(right, len(targets)).proportion_ci(method="wilson")
    classes = _class_metrics(scores, targets)
    precisions = [each.average_precision for each in classes if each.average_precision is not None]
    return Evaluation(
        split=split,
        images=len(targets),
        leaks=leaks,
        accuracy_interval=(float(interval.low), float(interval.high)),
        classes=classes,
        confusion=None if targets.multilabel else _confusion(scores, targets),
        **metrics | {"average_precision": float(np.mean(precisions)) if precisions else 0.0},
    )


def _class_metrics(scores: np.ndarray, targets: Targets) -> list[ClassMetrics]:
    carried, given = targets.indicators, decide(scores, multilabel=targets.multilabel)
    right, images, called = (each.sum(axis=0) for each in (carried & given, carried, given))
    return [
        ClassMetrics(label, int(n), _share(hits, calls), _share(hits, n), precision)
        for label, n, hits, calls, precision in zip(
            targets.classes, images, right, called, average_precisions(scores, targets), strict=True
        )
    ]


def _confusion(scores: np.ndarray, targets: Targets) -> list[list[int]]:
    k = len(targets.classes)
    pairs = targets.codes * k + scores.argmax(axis=1)
    counts: list[list[int]] = np.bincount(pairs, minlength=k * k).reshape(k, k).tolist()
    return counts


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
