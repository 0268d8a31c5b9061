"""Read the curves of a training, as lecture notes teach it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["read_curves"]

_FEWEST = 3
"""Epochs that a reading needs."""
_SHARE, _NATS = 0.05, 0.02
"""A loss is lower or higher if it differs by both, relative to the other one and in nats."""
_JUMP, _JUMP_NATS = 0.1, 0.05
"""Likewise, for the rise of a training loss from one epoch to the next."""
_ZIGZAG = 3
"""The training loss zigzags if one step in so many is such a rise, and two are."""
_GAP, _ERRORS = 0.1, 2
"""Between accuracies, and in standard errors: a larger one shows over-fitting."""
_SAME, _LOW = 0.02, 0.9
"""Accuracies are alike up to the first, and low below the second."""
_AFTER = 2
"""Epochs after the best one that show whether a validation loss rises again."""
_SLOWER = "a lower learning rate helps"


class _Curves(NamedTuple):
    """The four curves of a training, each of shape (epochs,), and what else is known.

    Attributes
    ----------
    start : float or None
        The validation loss before the first epoch.
    images : int
        Number of validation images.
    mixed : bool
        Whether the network was trained on mixtures of images.
    """

    loss: np.ndarray
    accuracy: np.ndarray
    val_loss: np.ndarray
    val_accuracy: np.ndarray
    start: float | None
    images: int
    mixed: bool


def read_curves(
    history: Sequence[Mapping[str, Any]],
    images: int,
    *,
    start: float | None = None,
    diverged: bool = False,
    mixed: bool = False,
) -> str:
    """Say in one sentence whether a training under-fits, over-fits or has too high a rate.

    The rules are those of lecture notes: Stanford's CS231n, Neural Networks Part 3, section
    "Babysitting the Learning Process" (the shape of the loss tells the learning rate, the gap
    between the accuracies over-fitting), and Goodfellow, Bengio and Courville 2016, Deep Learning,
    sections 5.2 (under-fitting and over-fitting) and 7.8 (a validation loss that rises again). The
    first rule that applies gives the sentence. "The end" is the mean of the last third of the
    epochs, at least two; a loss is lower or higher than another one if it differs by more than 5%
    and by more than 0.02 nats.

    1. Rate too high: a loss is no longer finite; or the training loss is higher at the end than in
       the first epoch; or it zigzags: at least two of its steps from epoch to epoch, and a third
       of them, are rises by more than 10% and 0.05 nats.
    2. Over-fitting: the validation loss is higher at the end than in its best epoch (in the epochs
       of the end that follow it, at least two), or than before training, and the training loss is
       no higher than it was there.
    3. Under-fitting: both losses are lower in the last epoch than a third of the epochs earlier,
       and no epoch has a lower validation loss.
    4. Over-fitting: at the end, the accuracy of the training images is more than 0.1, and more than
       two standard errors, above that of the validation images.
    5. Under-fitting: the training loss is not lower at the end than in the first epoch, and the
       accuracy of the training images is below 0.9 there.
    6. Under-fitting: at the end, both accuracies are below 0.9, and that of the training images is
       at most 0.02 above the other one.

    Losses of training and validation images are not compared with each other, as label smoothing
    and class weights change only the former. Of mixtures of images (MixUp, CutMix), the accuracy
    and the lowest possible loss depend on the shares that are drawn. Of such a training, the rules
    that read the accuracy of training images (4 to 6) are left out, so is the zigzag; a rise of the
    training loss shows a rate too high only if the validation loss rises as well; and rule 2
    compares the training loss with that of the first epoch.

    Parameters
    ----------
    history : sequence of mapping
        ``loss``, ``accuracy``, ``val_loss`` and ``val_accuracy`` of each epoch.
    images : int
        Number of validation images.
    start : float, optional
        The validation loss before the first epoch, if the network was not random then.
    diverged : bool
        Whether a loss was not finite in the epoch after the last one.
    mixed : bool
        Whether the network was trained on mixtures of images.

    Returns
    -------
    str
        One sentence, without a full stop.
    """
    number = len(history)
    if diverged:
        return f"rate too high: the loss is no longer finite in epoch {number + 1}; {_SLOWER}"
    if number < _FEWEST:
        return f"too few epochs to read the curves: {number}, and {_FEWEST} are needed"
    columns = {
        name: np.array([row[name] for row in history])
        for name in ("loss", "accuracy", "val_loss", "val_accuracy")
    }
    curves = _Curves(**columns, start=start, images=images, mixed=mixed)
    rules = _RULES_OF_MIXTURES if mixed else _RULES
    return next(filter(None, (rule(curves) for rule in rules)), _nothing(curves))


def _rate_too_high(curves: _Curves) -> str:
    loss, val_loss = curves.loss, curves.val_loss
    if not _is_higher(_end(loss), loss[0]):
        return ""
    if curves.mixed and not _is_higher(_end(val_loss), val_loss[0]):
        return ""
    return (
        f"rate too high: the training loss rises from {loss[0]:.3g} in the first epoch to "
        f"{_end(loss):.3g} at the end; {_SLOWER}"
    )


def _zigzags(curves: _Curves) -> str:
    loss, steps = curves.loss, len(curves.loss) - 1
    rises = int(((loss[1:] > (1 + _JUMP) * loss[:-1]) & (np.diff(loss) > _JUMP_NATS)).sum())
    if rises < 2 or rises * _ZIGZAG < steps:  # noqa: PLR2004 - one rise is no zigzag
        return ""
    return (
        f"rate too high: the training loss zigzags, as it rises in {rises} of {steps} steps "
        f"from epoch to epoch; {_SLOWER}"
    )


def _rises_again(curves: _Curves) -> str:
    loss, val_loss = curves.loss, curves.val_loss
    best = int(val_loss.argmin())
    lowest, where, last = val_loss[best], f"in epoch {best + 1}", val_loss[best + 1 :]
    before = loss[0] if curves.mixed else loss[best]
    if curves.start is not None and curves.start <= lowest:
        lowest, where, last, before = curves.start, "before training", val_loss, loss[0]
    last = last[-_third(loss) :]
    # Of a loss that falls up to the end, no epochs are left, whose mean would be above its lowest.
    if len(last) < _AFTER or not _is_higher(last.mean(), lowest) or _is_higher(_end(loss), before):
        return ""
    return (
        f"over-fitting: the validation loss rises from {lowest:.3g} {where} to {last.mean():.3g} "
        f"at the end, while the training loss is {_end(loss):.3g}; more images, augmentation or "
        f"regularisation help"
    )


def _still_falls(curves: _Curves) -> str:
    loss, val_loss = curves.loss, curves.val_loss
    earlier = -1 - _third(loss)
    falls = all(_is_higher(each[earlier], each[-1]) for each in (loss, val_loss))
    if not falls or val_loss[-1] > val_loss.min():
        return ""
    return (
        f"under-fitting: both losses still fall at the end, that of the validation images from "
        f"{val_loss[earlier]:.3g} to {val_loss[-1]:.3g} in the last {_third(loss)} epochs; more "
        f"epochs or a higher learning rate help"
    )


def _gap(curves: _Curves) -> str:
    train, val = _end(curves.accuracy), _end(curves.val_accuracy)
    error = (val * (1 - val) / curves.images) ** 0.5
    if train - val <= max(_GAP, _ERRORS * error):
        return ""
    return (
        f"over-fitting: at the end, the accuracy is {train:.3g} on training images and {val:.3g} "
        f"on validation images; more images, augmentation or regularisation help"
    )


def _hardly_falls(curves: _Curves) -> str:
    loss = curves.loss
    if _is_higher(loss[0], _end(loss)) or _end(curves.accuracy) >= _LOW:
        return ""
    return (
        f"under-fitting: the training loss hardly falls, from {loss[0]:.3g} in the first epoch to "
        f"{_end(loss):.3g} at the end; a higher learning rate or more epochs help"
    )


def _low(curves: _Curves) -> str:
    train, val = _end(curves.accuracy), _end(curves.val_accuracy)
    if max(train, val) >= _LOW or train - val > _SAME:
        return ""
    return (
        f"under-fitting: at the end, the accuracy is {train:.3g} on training images and {val:.3g} "
        f"on validation images; more epochs, a larger trained part or less augmentation help"
    )


def _nothing(curves: _Curves) -> str:
    train, val = _end(curves.accuracy), _end(curves.val_accuracy)
    if curves.mixed:
        return (
            f"neither over-fitting nor a rate that is too high, as far as a training on mixtures "
            f"shows; at the end, the accuracy is {val:.3g} on validation images"
        )
    return (
        f"no under-fitting, no over-fitting and no rate that is too high; at the end, the accuracy "
        f"is {train:.3g} on training images and {val:.3g} on validation images"
    )


def _third(curve: np.ndarray) -> int:
    return max(2, len(curve) // 3)


def _end(curve: np.ndarray) -> float:
    return float(curve[-_third(curve) :].mean())


def _is_higher(one: float, other: float) -> bool:
    return bool(one > (1 + _SHARE) * other and one - other > _NATS)


_RULES = (_rate_too_high, _zigzags, _rises_again, _still_falls, _gap, _hardly_falls, _low)
_RULES_OF_MIXTURES = (_rate_too_high, _rises_again, _still_falls)
