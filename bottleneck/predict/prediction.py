"""Predictions: what a head tells of images, from their features."""

from collections.abc import Sequence

import numpy as np

from bottleneck.errors import UsageError
from bottleneck.heads import Head
from bottleneck.records import Prediction

__all__ = ["check_abstain", "predictions_of"]


def check_abstain(head: Head, abstain: float | None) -> None:
    """Refuse to abstain where the head does not know how far images are.

    Parameters
    ----------
    head : Head
        The head.
    abstain : float or None
        The percentage, if given.

    Raises
    ------
    UsageError
        The head does not know.
    """
    if abstain is not None and head.novelty is None:
        raise UsageError(
            "the head does not know how far images are from its training images, as it was fitted "
            "on arrays or by an earlier version; run 'bottleneck fit-head' again, or leave "
            "`abstain` out"
        )


def predictions_of(
    head: Head,
    rows: Sequence[np.ndarray],
    paths: Sequence[str],
    *,
    true_labels: Sequence[str | None] | None = None,
    abstain: float | None = None,
) -> list[Prediction]:
    """Return the predictions of a head for images, from their features.

    Parameters
    ----------
    head : Head
        The head.
    rows : sequence of np.ndarray
        For each image at least one: shape (1 + views, d), as many views for each; first the row of
        the unaugmented image.
    paths : sequence of str
        Names of the images.
    true_labels : sequence of str or None, optional
        Labels that the images were given with.
    abstain : float, optional
        Give no class to images whose novelty is above this percentage.

    Returns
    -------
    list of Prediction
    """
    scores = head.decision_function(np.concatenate(rows))
    novelties: list[float | None] = [None] * len(rows)
    if head.novelty:
        novelties = head.novelty.percentiles(np.stack([each[0] for each in rows])).tolist()
    means, shares = (
        each.reshape(len(rows), -1, len(head.classes)).mean(axis=1)
        for each in (scores, head.probabilities(scores))
    )
    # If images may have several classes, predict those with a probability above 0.5.
    labels = head.labels(shares - 0.5 if len(scores) > len(rows) else scores)
    given = true_labels or [None] * len(rows)
    found = []
    facts = zip(paths, labels, novelties, given, means.tolist(), shares.tolist(), strict=True)
    for path, label, novelty, true, *own in facts:
        known = abstain is None or novelty is None or novelty <= abstain
        by_score, by_share = (dict(zip(head.classes, each, strict=True)) for each in own)
        shown = str(label) if known else None
        found.append(Prediction(path, shown, by_score, by_share, true, novelty))
    return found
