"""Metrics of a head on held-out features, with confidence intervals."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bottleneck.arguments import checked
from bottleneck.errors import DataError, UsageError, WrongTypeError
from bottleneck.features import SPLITS, Features
from bottleneck.files import atomic_write
from bottleneck.heads import Head
from bottleneck.heads.scoring import average_precisions, decide, score_metrics
from bottleneck.labels import Targets

__all__ = ["ClassMetrics", "Evaluation", "evaluate_head"]


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class.

    Attributes
    ----------
    label : str
        The class.
    images : int
        Images that have the label.
    precision, recall : float or None
        None if no image was given the label, or no image has it.
    average_precision : float or None
        Mean precision over the images that have the label, ranked by score; None if none has.
    """

    label: str
    images: int
    precision: float | None
    recall: float | None
    average_precision: float | None


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a head on a split.

    Attributes
    ----------
    split : str
        ``test``, ``val`` or ``train``.
    images : int
        Images evaluated.
    leaks : int
        Images that are identical to an image of another split. Those of ``test`` and ``val`` are
        not held out, and are left out of all metrics.
    accuracy : float
        Fraction of images classified correctly: in all of their classes, if they may have several.
    accuracy_interval : tuple of float
        95% score interval of the accuracy (Wilson 1927, Probable Inference, the Law of Succession,
        and Statistical Inference).
    balanced_accuracy : float
        Mean recall of the classes that have images; if images may have several classes, the mean of
        their recall and specificity.
    average_precision : float
        Mean over the classes that have images.
    log_loss : float
        Mean negative log probability of an image's own label, in nats; if images may have several
        classes, of the right answer for each class.
    calibration_error : float
        Mean difference between confidence and accuracy, see `bottleneck.heads.calibration_error`.
    classes : list of ClassMetrics
        In the head's order.
    confusion : list of list of int or None
        Rows: true labels; columns: predicted labels. None if images may have several classes.
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
        """Return the evaluation in JSON types.

        Returns
        -------
        dict of str to Any
            Fields by name, nested objects as dictionaries.
        """
        return asdict(self)

    def save(self, file: str | Path) -> None:
        """Write the evaluation as JSON, completely or not at all.

        Parameters
        ----------
        file : str or Path
            Path of the file.

        Raises
        ------
        OSError
            The folder cannot be written.
        """
        atomic_write(Path(file), json.dumps(self.as_dict(), indent=2) + "\n")


@checked
def evaluate_head(head: Head, features: Features, split: str = "test") -> Evaluation:
    """Evaluate a head on the images of one split.

    Images of ``test`` or ``val`` that are identical to an image of another split are left out, as
    they are not held out.

    Parameters
    ----------
    head : Head
        A head fitted on the same layer.
    features : Features
        The result of `bottleneck.features.features_of` for the head.
    split : str
        ``test``; or ``val`` or ``train``, whose scores are too optimistic to quote.

    Returns
    -------
    Evaluation

    Raises
    ------
    UsageError
        The split does not exist.
    WrongTypeError
        `head` is not a `Head`, or `features` is not a `Features`.
    DataError
        The split has no images that no other split has, or a class that the head does not know.
    """
    if not isinstance(features, Features):
        raise WrongTypeError(
            f"`features` must be Features, got {type(features).__name__}; give the result of "
            f"bottleneck.load_features"
        )
    if split not in SPLITS:
        raise UsageError(f"no split {split!r}; expected one of {', '.join(SPLITS)}")
    held = features.split(split)
    if not len(held):
        there = sorted(set(features.splits) - {""})
        raise DataError(
            f"image set {features.images.name!r} has no {split} images, only "
            f"{', '.join(there) or 'unlabelled ones'}; add a {split} folder, extract and fit "
            f"again, or choose another with `split`"
        )
    leaked = np.isin(held.digests, features.images.leaks)
    leaks = int(leaked.sum())
    if split != "train":
        if leaks == len(held):
            raise DataError(
                f"all {leaks} {split} images of {features.images.name!r} are identical to images "
                f"of other splits, so that none is held out; add {split} images, extract and fit "
                f"again"
            )
        held = held.take(~leaked)
    targets = Targets.among(held.labels, head.classes, multilabel=head.multilabel)
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
