"""What heads do on images: evaluation, calibration, and the prediction for each image."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bottleneck.cache import Cache
from bottleneck.errors import BottleneckError, CacheError, as_options
from bottleneck.evaluate import Evaluation, evaluate_head
from bottleneck.experiments import paired_gain
from bottleneck.features import Features, features_of
from bottleneck.heads import Head
from bottleneck.heads.scoring import calibration_error, decide, log_probabilities, reliability
from bottleneck.images import ImageItem
from bottleneck.labels import Targets, known_labels
from bottleneck.records import known_source
from bottleneck.report.drawing import Picture, epochs_of

__all__ = ["Answers", "Bin", "Difference", "Given", "HeadSection", "Judged", "compared", "judge"]

_FEWEST = 2

_Key = tuple[str, str, str]
"""Digest, label and split of an image."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a head gave an image.

    Attributes
    ----------
    label : str
        The predicted class or classes.
    confidence : float
        Probability of the predicted class; if images may have several classes, of the least certain
        decision.
    right : bool or None
        Whether it is the image's label; None for an image that is not scored, because it is also in
        another split or has a class that the head does not know.
    group : str
        The image's group, or its digest.
    """

    label: str
    confidence: float
    right: bool | None
    group: str


@dataclass(frozen=True)
class Bin:
    """Predictions of about the same confidence.

    Attributes
    ----------
    confidence, accuracy : float
        Means over the predictions.
    predictions : int
        How many they are.
    """

    confidence: float
    accuracy: float
    predictions: int


@dataclass(frozen=True)
class Answers:
    """What a head answers about one class, where images may have several.

    Attributes
    ----------
    label : str
        The class.
    right, missed, false : int
        Number of images that have the class and are given it, that have it and are not, and that
        are given it without having it.
    """

    label: str
    right: int
    missed: int
    false: int


@dataclass(frozen=True)
class Difference:
    """The accuracy of a head minus that of the first head, on the same images.

    Attributes
    ----------
    gain : float
        The difference.
    interval : tuple of float
        95% interval, paired over the images; those of one group count as one.
    images : int
        Number of images that both were scored on.
    """

    gain: float
    interval: tuple[float, float]
    images: int


@dataclass(frozen=True, kw_only=True)
class HeadSection:
    """A head, and what it does on held-out images.

    Attributes
    ----------
    name, clf, features : str
        Name of the head, its classifier, and the layer that it was fitted on.
    hyperparameters : dict
        As in the head's record.
    temperature : float
        Divides its scores.
    problem : str
        Why it could not be evaluated; empty if it was.
    evaluation : Evaluation or None
        On the split of the report.
    before, after : list of Bin
        Calibration with a temperature of 1, and with that of the head.
    error_before : float
        Calibration error with a temperature of 1.
    answers : list of Answers
        By class, where images may have several; else empty, as the evaluation has a confusion
        matrix.
    difference : Difference or None
        None for the first head, or without images that both were scored on.
    reading : str
        What the curves of a training in epochs show.
    epochs : Picture or None
        These curves.
    """

    name: str
    clf: str
    features: str
    hyperparameters: dict[str, Any]
    temperature: float
    problem: str = ""
    evaluation: Evaluation | None = None
    before: list[Bin] = field(default_factory=list)
    after: list[Bin] = field(default_factory=list)
    error_before: float = 0.0
    answers: list[Answers] = field(default_factory=list)
    difference: Difference | None = None
    reading: str = ""
    epochs: Picture | None = None


@dataclass(frozen=True)
class Judged:
    """A head on images.

    Attributes
    ----------
    section : HeadSection
        What the report says of it.
    features : Features or None
        Those that it scored, without views; None if they could not be read.
    given : dict
        Its prediction for each image, by digest, label and split.
    note : str
        Why only the images of one split have predictions; empty if all have.
    """

    section: HeadSection
    features: Features | None = None
    given: dict[_Key, Given] = field(default_factory=dict)
    note: str = ""

    def of(self, item: ImageItem) -> Given | None:
        """Return the prediction for an image, if it was scored."""
        return self.given.get((item.digest, item.label or "", item.split or ""))


def judge(name: str, head: Head, cache: Cache, split: str, memory: int | None) -> Judged:
    """Evaluate a head on one split, and predict the images of all splits.

    Parameters
    ----------
    name : str
        Name of the head.
    head : Head
        The head.
    cache : Cache
        The cache with its features.
    split : str
        The split to evaluate on.
    memory : int or None
        Memory limit in bytes for the features, see `bottleneck.load_features`.

    Returns
    -------
    Judged
        Where the head cannot be evaluated, its section says why.
    """
    section = HeadSection(
        name=name,
        clf=head.clf,
        features=str(known_source(head.source)),
        hyperparameters=head.hyperparameters,
        temperature=head.temperature,
        reading=str(head.scores.get("reading", "")),
        epochs=epochs_of(name, head.scores),
    )
    try:
        features, note = _features(head, cache, split, memory)
        judged = replace(_predicted(head, features, split, section), note=note)
    except BottleneckError as error:
        return Judged(replace(section, problem=as_options(error)))
    try:
        evaluation = evaluate_head(head, features, split)
    except BottleneckError as error:
        return replace(judged, section=replace(section, problem=as_options(error)))
    return replace(judged, section=replace(judged.section, evaluation=evaluation))


def _features(head: Head, cache: Cache, split: str, memory: int | None) -> tuple[Features, str]:
    """Return the rows of all splits; or those of one split, and why the others cannot be read.

    Of a fine-tuned base, only one split may be in the cache.
    """
    load: dict[str, Any] = {"memory": memory, "seen": head.seen}
    try:
        return features_of(head.source, cache, **load), ""
    except CacheError as error:
        note = f"only {split} images have predictions: {as_options(error)}"
        return features_of(head.source, cache, split=split, **load), note


def _predicted(head: Head, features: Features, split: str, section: HeadSection) -> Judged:
    """Predict all images, and compute the calibration on those of the split that are scored."""
    scores = np.concatenate([head.decision_function(block) for block in features.blocks()])
    shares, predicted = head.probabilities(scores), head.labels(scores)
    confidence = (np.maximum(shares, 1 - shares).min if head.multilabel else shares.max)(axis=1)
    labels, known = known_labels(features.labels, head.classes, multilabel=head.multilabel)
    held_out = (features.splits == "train") | ~np.isin(features.digests, features.images.leaks)
    right = np.full(len(features), None, object)
    if known.any():
        targets = Targets.among(labels, head.classes, multilabel=head.multilabel)
        chosen = decide(scores[known], multilabel=head.multilabel)
        right[known] = (chosen == targets.indicators).all(axis=1).tolist()
        own = (held_out & (features.splits == split))[known]
        if own.any():
            section = _calibrated(section, head, scores[known][own], targets.take(own))
            section = replace(section, answers=_answers(targets.take(own), chosen[own]))
    right[~held_out] = None
    keys = features.digests, features.labels, features.splits
    columns = *keys, predicted, confidence, right, features.groups
    rows = zip(*(each.tolist() for each in columns), strict=True)
    given = {(digest, label, own): Given(*told) for digest, label, own, *told in rows}
    return Judged(section, features, given)


def _calibrated(
    section: HeadSection, head: Head, scores: np.ndarray, targets: Targets
) -> HeadSection:
    plain, scaled = (
        np.exp(log_probabilities(head.link, scores, each)) for each in (1.0, head.temperature)
    )
    return replace(
        section,
        before=_bins(plain, targets),
        after=_bins(scaled, targets),
        error_before=calibration_error(plain, targets),
    )


def _answers(targets: Targets, chosen: np.ndarray) -> list[Answers]:
    """Count what is right, missed and false by class, if images may have several."""
    if not targets.multilabel:
        return []
    has = targets.indicators
    counts = ((has & chosen), (has & ~chosen), (~has & chosen))
    columns = (each.sum(axis=0).tolist() for each in counts)
    return [Answers(*told) for told in zip(targets.classes, *columns, strict=True)]


def _bins(probabilities: np.ndarray, targets: Targets) -> list[Bin]:
    counts, confidence, right = reliability(probabilities, targets)
    return [
        Bin(float(confidence[each] / count), float(right[each] / count), int(count))
        for each, count in enumerate(counts)
        if count
    ]


def compared(first: Judged, other: Judged, split: str) -> Difference | None:
    """Compare the accuracies of two heads on the images of a split that both were scored on.

    Parameters
    ----------
    first, other : Judged
        The heads.
    split : str
        The split.

    Returns
    -------
    Difference or None
        None if fewer than two different images were.
    """
    pairs = [
        (each.group, float(each.right) - float(mine.right))
        for key, each in other.given.items()
        if key[-1] == split
        and (mine := first.given.get(key))
        and each.right is not None
        and mine.right is not None
    ]
    if len(pairs) < _FEWEST:
        return None
    groups, changes = zip(*pairs, strict=True)
    return Difference(*paired_gain(changes, groups), len(changes))
