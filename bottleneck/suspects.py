"""Find labels that are probably wrong, outliers and look-alikes, by cached features."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bottleneck.arguments import checked, made
from bottleneck.errors import DataError, counted
from bottleneck.extras import import_extra
from bottleneck.features import Features
from bottleneck.heads import HeldOut, held_out_probabilities
from bottleneck.labels import Targets, join_classes
from bottleneck.settings import SuspectSettings
from bottleneck.similar import Progress, near_duplicate_groups, neighbour_distances, silent

__all__ = [
    "LookAlikes",
    "Outlier",
    "Suspect",
    "Suspects",
    "find_look_alikes",
    "find_outliers",
    "find_suspects",
    "tell_apart",
]

_CLEANLAB = (2, 9)
"""Its first release under the Apache licence."""
_FILTER = "low_self_confidence"
"""Of the labels ranked by their probability, as many are suspects as cleanlab counts wrong ones."""
_NEIGHBOURS = 10
_MOST_ALIKE, _ALIKE_SHARE = 20, 0.1
"""A group of more images, and of a larger share of all, is that of a layer that hardly differs."""
_FAR_OUT = 3.0


@dataclass(frozen=True)
class Suspect:
    """An image whose label is probably wrong.

    Attributes
    ----------
    path : str
        Path of the image at extraction.
    label : str
        Its label.
    suggested : str
        The label that heads which have not seen it give it.
    score : float
        cleanlab's label quality, from 0 (probably wrong) to 1 (probably right).
    split : str
        ``train``, ``val`` or ``test``.
    """

    path: str
    label: str
    suggested: str
    score: float
    split: str


@dataclass(frozen=True)
class Outlier:
    """An image unlike all others.

    Attributes
    ----------
    path, label, split : str
        As of `Suspect`; empty in a set without labels.
    distance : float
        Mean of one minus the cosine to its ten nearest images, from 0 to 2.
    """

    path: str
    label: str
    distance: float
    split: str


@dataclass(frozen=True)
class LookAlikes:
    """Different images with features that are almost the same.

    Attributes
    ----------
    paths, labels, splits : list of str
        Of each of these images; of identical ones, of the first.
    """

    paths: list[str]
    labels: list[str]
    splits: list[str]

    @property
    def disagree(self) -> bool:
        """Whether the images have different labels, or are in different splits."""
        return len({*self.labels}) > 1 or len({*self.splits}) > 1


@dataclass(frozen=True)
class Suspects:
    """What is probably wrong with the images of a set.

    Attributes
    ----------
    image_set : str
        Name of the set.
    clf : str
        The classifier that labels were judged by.
    images : int
        Number of images whose labels were judged.
    folds : int
        Number of folds, each judged by a head that was fitted on the others.
    labels : list of Suspect
        The most suspect first.
    outliers : list of Outlier
        The farthest first.
    look_alikes : list of LookAlikes
        Those with different labels or in different splits first.
    """

    image_set: str
    clf: str
    images: int
    folds: int
    labels: list[Suspect]
    outliers: list[Outlier]
    look_alikes: list[LookAlikes]


@checked
def find_suspects(
    features: Features,
    settings: SuspectSettings | None = None,
    *,
    progress: Progress = silent,
    **options: Any,
) -> Suspects:
    """Find labels that are probably wrong, outliers, and groups of look-alikes.

    Labels are judged by the probabilities of heads that were fitted without the image, its copies
    and its group, see `bottleneck.heads.held_out_probabilities`. cleanlab counts the wrong labels
    and scores each (Northcutt, Jiang and Chuang 2021, Confident Learning: Estimating Uncertainty in
    Dataset Labels, section 3; Kuan and Mueller 2022, Model-agnostic Label Quality Scoring to Detect
    Real-world Label Errors, section 2). An outlier's mean cosine distance to its ten nearest images
    is above the third quartile by more than three interquartile ranges (Tukey 1977, Exploratory
    Data Analysis, section 2D: far out).

    Parameters
    ----------
    features : Features
        The result of `bottleneck.load_features`, of all splits.
    settings : SuspectSettings, optional
        Settings, or their fields as `options`.
    progress : callable, optional
        Called with ``"neighbours"`` or ``"look-alikes"``, the number of images done, and of all.
    **options
        Fields of `bottleneck.settings.SuspectSettings`, such as ``clf="svm", top=100``.

    Returns
    -------
    Suspects

    Raises
    ------
    DataError
        The set has no labels, or too few images of a class for two folds.
    UsageError
        A setting is invalid, or the classifier does not support several classes per image.
    MissingExtraError
        cleanlab is not installed, or a version before 2.9 is.
    CacheError
        A part of the cache is damaged.
    """
    asked = made(SuspectSettings, settings, options)
    what = "finding wrong labels"
    import_extra("cleanlab.filter", what, "cleanlab", extra="suspects", least=_CLEANLAB)
    judged = np.full(len(features), asked.test) | (features.splits != "test")
    if len(features.labels) and not judged.any():
        raise DataError(
            f"image set {features.images.name!r} has only test images; give `test` to judge their "
            f"labels, too"
        )
    clf = asked.clf or ("logreg" if features.images.multilabel else "softmax")
    held = held_out_probabilities(features, clf, rows=judged, seed=asked.seed)
    plain = features.take(features.views == 0)
    return Suspects(
        image_set=features.images.name,
        clf=clf,
        images=len(held.rows),
        folds=held.folds,
        labels=_suspects(features, held, asked.top),
        outliers=find_outliers(plain, progress),
        look_alikes=find_look_alikes(plain, asked.near, progress),
    )


def _suspects(features: Features, held: HeldOut, top: int | None) -> list[Suspect]:
    judge = judge_several if held.targets.multilabel else judge_single
    wrong, scores, suggested = judge(held.targets, held.probabilities)
    order = np.argsort(scores, kind="stable")
    order = order[wrong[order]] if top is None else order[:top]
    return [
        Suspect(**_facts(features, row), suggested=suggested[place], score=float(scores[place]))
        for place, row in zip(order.tolist(), held.rows[order], strict=True)
    ]


_HAS = ("with", "without")
_Judged = tuple[np.ndarray, np.ndarray, Sequence[str]]


def judge_single(targets: Targets, probabilities: np.ndarray) -> _Judged:
    """Judge labels of one class each.

    Parameters
    ----------
    targets : Targets
        Labels of the n rows, with k classes.
    probabilities : np.ndarray
        Shape (n, k), by heads that have not seen the row.

    Returns
    -------
    wrong : np.ndarray
        bool of shape (n,): the labels that cleanlab counts as wrong, and are not the likeliest.
    scores : np.ndarray
        Label quality from 0 to 1, of shape (n,).
    suggested : list of str
        The likeliest other class of each row.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    codes = targets.codes
    wrong = find_label_issues(codes, probabilities, filter_by=_FILTER, n_jobs=1)
    scores = get_label_quality_scores(codes, probabilities)
    others = np.where(np.arange(len(targets.classes)) == codes[:, None], -1.0, probabilities)
    likeliest = probabilities.argmax(axis=1)
    return wrong & (likeliest != codes), scores, [targets.classes[k] for k in others.argmax(axis=1)]


def judge_several(targets: Targets, probabilities: np.ndarray) -> _Judged:
    """Judge labels of several classes each, as `judge_single` does.

    Parameters
    ----------
    targets, probabilities
        As for `judge_single`.

    Returns
    -------
    wrong, scores, suggested
        As of `judge_single`. A suggested label differs in those classes that are counted as wrong,
        or else in the one that is least certain.
    """
    from cleanlab.multilabel_classification import get_label_quality_scores
    from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class

    if len(targets.classes) == 1:  # cleanlab takes several only
        two = Targets.among(np.where(targets.codes[:, 0], *_HAS), _HAS, multilabel=False)
        both = np.hstack([probabilities, 1 - probabilities])
        wrong, scores, _ = judge_single(two, both)
        each = wrong[:, None]
    else:
        lists = [np.flatnonzero(row).tolist() for row in targets.codes]
        how: dict[str, Any] = {"filter_by": _FILTER, "n_jobs": 1}
        each = np.asarray(find_multilabel_issues_per_class(lists, probabilities, **how))
        wrong = np.asarray(each.any(axis=1))
        scores = get_label_quality_scores(lists, probabilities)
    own = np.where(targets.codes, probabilities, 1 - probabilities)
    least = np.arange(len(targets.classes)) == own.argmin(axis=1)[:, None]
    changed = np.where(wrong[:, None], each, least)
    names = np.array(targets.classes, dtype=object)
    suggested = [join_classes(names[row]) for row in targets.codes ^ changed]
    return wrong, scores, suggested


def find_outliers(plain: Features, progress: Progress = silent) -> list[Outlier]:
    """Return the images that are far out, the farthest first, see `find_suspects`.

    Parameters
    ----------
    plain : Features
        Unaugmented rows; they need no labels.
    progress : callable, optional
        As for `find_suspects`.

    Returns
    -------
    list of Outlier
    """
    distances = neighbour_distances(plain.X, _NEIGHBOURS, widths=plain.widths, progress=progress)
    low, high = np.quantile(distances, [0.25, 0.75])
    far = np.flatnonzero(distances > high + _FAR_OUT * (high - low))
    return [
        Outlier(**_facts(plain, row), distance=float(distances[row]))
        for row in far[np.argsort(-distances[far], kind="stable")]
    ]


def find_look_alikes(
    plain: Features, least: float, progress: Progress = silent
) -> list[LookAlikes]:
    """Return groups of look-alikes; those with different labels or splits first.

    Parameters
    ----------
    plain : Features
        Unaugmented rows; they need no labels.
    least : float
        Least cosine of the features of two images; a group is connected by such pairs.
    progress : callable, optional
        As for `find_suspects`.

    Returns
    -------
    list of LookAlikes
    """
    columns = plain.paths, _labels(plain), plain.splits
    groups = []
    found = near_duplicate_groups(plain.X, least, widths=plain.widths, progress=progress)
    for rows in found:
        _, first = np.unique(plain.digests[rows], return_index=True)
        if len(first) > 1:
            groups.append(rows[np.sort(first)])
    alike = [LookAlikes(*(each[rows].tolist() for each in columns)) for rows in groups]
    return sorted(alike, key=lambda group: not group.disagree)


def tell_apart(groups: Sequence[LookAlikes], images: int) -> tuple[list[LookAlikes], str]:
    """Leave out groups of so many images that the features hardly tell images apart.

    Parameters
    ----------
    groups : sequence of LookAlikes
        All groups.
    images : int
        Number of images among which they were found.

    Returns
    -------
    groups : list of LookAlikes
        The others.
    note : str
        What to say of those that are left out; "" if there are none.
    """
    most = max(_MOST_ALIKE, _ALIKE_SHARE * images)
    small = [each for each in groups if len(each.paths) <= most]
    hidden = sum(len(each.paths) for each in groups if len(each.paths) > most)
    note = (
        f"no look-alikes are shown of {counted(hidden, 'image')}, whose features are all close "
        f"to each other; a later layer tells images apart better"
    )
    return small, note if hidden else ""


def _facts(features: Features, row: int) -> dict[str, str]:
    columns = {"path": features.paths, "label": _labels(features), "split": features.splits}
    return {name: str(column[row]) for name, column in columns.items()}


def _labels(plain: Features) -> np.ndarray:
    return np.full(len(plain), "") if plain.y is None else plain.y
