"""Metrics of a head on held-out features, with confidence intervals."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bottleneck.arguments import checked
from bottleneck.errors import DataError, UsageError, WrongTypeError
from bottleneck.experiments import share_interval
from bottleneck.features import SPLITS, Features, no_images
from bottleneck.files import atomic_write
from bottleneck.heads import Head
from bottleneck.heads.scoring import average_precisions, decide, extreme_losses, score_metrics
from bottleneck.labels import Targets, known_labels, unknown_classes

__all__ = [
    "ClassMetrics",
    "Evaluation",
    "Misclassified",
    "UnknownClass",
    "evaluate_head",
    "misclassified",
]


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
    precision_interval, recall_interval : tuple of float or None
        Their 95% score intervals, as of the accuracy.
    average_precision : float or None
        Mean precision over the images that have the label, ranked by score; None if none has.
    """

    label: str
    images: int
    precision: float | None
    recall: float | None
    average_precision: float | None
    precision_interval: tuple[float, float] | None = None
    recall_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class UnknownClass:
    """A class that a head does not know.

    Attributes
    ----------
    label : str
        The class.
    images : int
        Number of its images.
    """

    label: str
    images: int


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
        Images that are identical to an image of another split, or in a group with one. Those of
        ``test`` and ``val`` are not held out, and are left out of all metrics.
    accuracy : float
        Fraction of images classified correctly: in all of their classes, if they may have several.
    accuracy_interval : tuple of float
        95% score interval of the accuracy (Wilson 1927, Probable Inference, the Law of Succession,
        and Statistical Inference). Where images are in groups, it counts these, see
        `bottleneck.experiments.share_interval`.
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
    unknown_classes : list of UnknownClass
        Classes that the head was not fitted on; their images are not scored.
    extreme_images, extreme_loss_share : int, float
        Few images that make most of the log loss, see `bottleneck.heads.scoring.extreme_losses`.
    groups : int
        Number of their groups, which the intervals count; as many as images if each stands alone.
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
    unknown_classes: list[UnknownClass] = field(default_factory=list)
    extreme_images: int = 0
    extreme_loss_share: float = 0.0
    groups: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the evaluation in JSON types."""
        return asdict(self)

    def worst_confusions(self, most: int) -> list[dict[str, Any]]:
        """Return the pairs of classes that were confused most often.

        Parameters
        ----------
        most : int
            Maximum number of pairs.

        Returns
        -------
        list of dict
            The most frequent first: ``label`` and ``predicted``, the number of ``images`` and their
            ``share`` of the images of their class. Empty if images may have several classes.
        """
        names = [each.label for each in self.classes]
        found: list[dict[str, Any]] = [
            {
                "label": names[row],
                "predicted": names[column],
                "images": count,
                "share": count / sum(counts),
            }
            for row, counts in enumerate(self.confusion or [])
            for column, count in enumerate(counts)
            if count and column != row
        ]
        return sorted(found, key=lambda each: (-each["images"], -each["share"]))[:most]

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


@dataclass(frozen=True)
class Misclassified:
    """An image that a head gave another label.

    Attributes
    ----------
    path : str
        Path of the image at extraction.
    label, predicted : str
        Its label, and the one that the head gave it.
    confidence : float
        Probability of the given label; if images may have several classes, of the worst decision:
        the largest probability of a class that is wrong, or of the absence of one that is right.
    label_probability : float or None
        Probability of its own label; None if images may have several classes.
    """

    path: str
    label: str
    predicted: str
    confidence: float
    label_probability: float | None


@checked
def misclassified(head: Head, features: Features, split: str = "test") -> list[Misclassified]:
    """Return the images of a split that a head misclassifies, the most confident first.

    Parameters
    ----------
    head, features, split : Head, Features, str
        As for `evaluate_head`.

    Returns
    -------
    list of Misclassified

    Raises
    ------
    UsageError, WrongTypeError, DataError
        As for `evaluate_head`.
    """
    held, targets, scores = _scored(head, features, split)
    shares, given = head.probabilities(scores), head.labels(scores)
    chosen = decide(scores, multilabel=targets.multilabel)
    wrong = chosen != targets.indicators
    doubts = np.where(chosen, shares, 1 - shares if targets.multilabel else 0.0)
    found = [
        Misclassified(
            path=str(held.paths[place]),
            label=str(held.labels[place]),
            predicted=str(given[place]),
            confidence=float(doubts[place][wrong[place]].max()),
            label_probability=None
            if targets.multilabel
            else float(shares[place, targets.codes[place]]),
        )
        for place in np.flatnonzero(wrong.any(axis=1))
    ]
    return sorted(found, key=lambda each: -each.confidence)


@checked
def evaluate_head(head: Head, features: Features, split: str = "test") -> Evaluation:
    """Evaluate a head on the images of one split.

    Images of ``test`` or ``val`` that are identical to an image of another split, or in a group
    with one, are left out, as they are not held out.

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
        The split has no images that no other split has, or none of a class that the head knows.
    """
    held, targets, scores = _scored(head, features, split)
    own = (features.splits == split) & (features.views == 0)
    leaks = int(np.isin(features.digests[own], features.images.leaks).sum())
    rows = head.link, scores, targets, head.temperature
    metrics = score_metrics(*rows) | extreme_losses(*rows)
    found = _evaluated(split, held.groups, targets, scores, metrics)
    unknown = unknown_classes(features.labels[own], head.classes, multilabel=head.multilabel)
    strange = [UnknownClass(label, count) for label, count in unknown.items()]
    return replace(found, leaks=leaks, unknown_classes=strange)


def _scored(head: Head, features: Features, split: str) -> tuple[Features, Targets, np.ndarray]:
    """Return the images of a split with known classes, their labels and scores of shape (n, k)."""
    if not isinstance(features, Features):
        raise WrongTypeError(
            f"`features` must be Features, got {type(features).__name__}; give the result of "
            f"bottleneck.load_features"
        )
    if split not in SPLITS:
        raise UsageError(f"no split {split!r}; expected one of {', '.join(SPLITS)}")
    held = features.split(split)
    if not len(held):
        raise no_images(split, map(str, features.splits), features.selection)
    leaked = np.isin(held.digests, features.images.leaks)
    if split != "train" and leaked.any():
        if leaked.all():
            raise DataError(
                f"all {split} images of {features.images.name!r} ({len(held)}) are identical to, "
                f"or in a group with, images of other splits, so that none is held out; add "
                f"{split} images, run {features.selection.made_by!r} again, and fit again"
            )
        held = held.take(~leaked)
    labels, known = known_labels(held.labels, head.classes, multilabel=head.multilabel)
    targets = Targets.among(labels, head.classes, multilabel=head.multilabel)
    held = held if known.all() else held.take(known)
    scores = np.concatenate([head.decision_function(block) for block in held.blocks()])
    return held, targets, scores


def _evaluated(
    split: str,
    groups: np.ndarray,
    targets: Targets,
    scores: np.ndarray,
    metrics: dict[str, Any],
) -> Evaluation:
    given = decide(scores, multilabel=targets.multilabel)
    right = (given == targets.indicators).all(axis=1)
    classes = _class_metrics(given, average_precisions(scores, targets), targets, groups)
    precisions = [each.average_precision for each in classes if each.average_precision is not None]
    mean = {"average_precision": float(np.mean(precisions)) if precisions else 0.0}
    return Evaluation(
        split=split,
        images=len(targets),
        leaks=0,
        groups=len(np.unique(groups)),
        accuracy_interval=share_interval(right.tolist(), groups.tolist()),
        classes=classes,
        confusion=None if targets.multilabel else _confusion(scores, targets),
        **metrics | mean,
    )


def _class_metrics(
    given: np.ndarray,
    average_precision: list[float | None],
    targets: Targets,
    groups: np.ndarray,
) -> list[ClassMetrics]:
    found = []
    for label, mean_precision, own, called in zip(
        targets.classes, average_precision, targets.indicators.T, given.T, strict=True
    ):
        precision, precision_interval = _share(own, called, groups)
        recall, recall_interval = _share(called, own, groups)
        images = int(own.sum())
        shares = precision, recall, mean_precision, precision_interval, recall_interval
        found.append(ClassMetrics(label, images, *shares))
    return found


def _share(
    seen: np.ndarray, among: np.ndarray, groups: np.ndarray
) -> tuple[float, tuple[float, float]] | tuple[None, None]:
    """Return the share of some images of which something is true, and its interval."""
    if not among.any():
        return None, None
    own = seen[among]
    return float(own.mean()), share_interval(own.tolist(), groups[among].tolist())


def _confusion(scores: np.ndarray, targets: Targets) -> list[list[int]]:
    k = len(targets.classes)
    pairs = targets.codes * k + scores.argmax(axis=1)
    counts: list[list[int]] = np.bincount(pairs, minlength=k * k).reshape(k, k).tolist()
    return counts
