"""Metrics of a head on held-out features, and the images that it gets wrong."""

from dataclasses import replace
from typing import Any

import numpy as np

from bottleneck.arguments import checked
from bottleneck.errors import DataError, UsageError, WrongTypeError
from bottleneck.evaluate.results import ClassMetrics, Evaluation, Misclassified, UnknownClass
from bottleneck.experiments import share_interval
from bottleneck.features import SPLITS, Features, no_images
from bottleneck.heads import Head
from bottleneck.heads.scoring import average_precisions, decide, extreme_losses, score_metrics
from bottleneck.labels import Targets, known_labels, unknown_classes

__all__ = ["evaluate_head", "misclassified"]


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
