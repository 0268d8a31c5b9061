"""What curves of a training show: each rule on a constructed curve. Less than 1 s."""

import numpy as np
import pytest

from bottleneck.heads.curves import read_curves


def history(loss, val_loss, accuracy=0.95, val_accuracy=0.93) -> list[dict[str, float]]:
    """Return a history; an accuracy may be one number for all epochs."""
    columns = np.broadcast_arrays(loss, accuracy, val_loss, val_accuracy)
    names = ("loss", "accuracy", "val_loss", "val_accuracy")
    return [
        {"epoch": epoch, **dict(zip(names, map(float, row), strict=True))}
        for epoch, row in enumerate(zip(*columns, strict=True), start=1)
    ]


FALLING = np.array([0.7, 0.5, 0.4, 0.34, 0.3, 0.28, 0.27, 0.265, 0.263, 0.262])
"""A loss that falls and levels off."""
U_SHAPED = np.array([0.7, 0.5, 0.4, 0.38, 0.4, 0.43, 0.47, 0.5, 0.55, 0.6])
STRAIGHT = np.linspace(0.7, 0.3, 10)
ZIGZAG = np.array([0.7, 0.5, 0.62, 0.4, 0.6, 0.45, 0.58, 0.44, 0.43, 0.42])


@pytest.mark.parametrize(
    ("curves", "start", "reading"),
    [
        (
            history(FALLING[::-1], FALLING),
            None,
            (
                "rate too high: the training loss rises from 0.262 in the first epoch to "
                "0.533 at the end; a lower learning rate helps"
            ),
        ),
        (
            history(ZIGZAG, FALLING),
            None,
            (
                "rate too high: the training loss zigzags, as it rises in 3 of 9 steps from "
                "epoch to epoch; a lower learning rate helps"
            ),
        ),
        (
            history(FALLING, U_SHAPED),
            None,
            (
                "over-fitting: the validation loss rises from 0.38 in epoch 4 to 0.55 at the "
                "end, while the training loss is 0.263; more images, augmentation or "
                "regularisation help"
            ),
        ),
        (  # The best epoch is one of the last third.
            history(FALLING, [*FALLING[:7], 0.2, 0.4, 0.5]),
            None,
            (
                "over-fitting: the validation loss rises from 0.2 in epoch 8 to 0.45 at the "
                "end, while the training loss is 0.263; more images, augmentation or "
                "regularisation help"
            ),
        ),
        (
            history(FALLING, FALLING + 0.2),
            0.3,
            (
                "over-fitting: the validation loss rises from 0.3 before training to 0.463 "
                "at the end, while the training loss is 0.263; more images, augmentation or "
                "regularisation help"
            ),
        ),
        (
            history(STRAIGHT, STRAIGHT),
            0.8,
            (
                "under-fitting: both losses still fall at the end, that of the validation "
                "images from 0.433 to 0.3 in the last 3 epochs; more epochs or a higher "
                "learning rate help"
            ),
        ),
        (
            history(FALLING, FALLING, accuracy=0.99, val_accuracy=0.71),
            None,
            (
                "over-fitting: at the end, the accuracy is 0.99 on training images and 0.71 "
                "on validation images; more images, augmentation or regularisation help"
            ),
        ),
        (
            history([0.69, 0.69, 0.68, 0.68], 0.69, accuracy=0.6, val_accuracy=0.55),
            0.69,
            (
                "under-fitting: the training loss hardly falls, from 0.69 in the first epoch "
                "to 0.68 at the end; a higher learning rate or more epochs help"
            ),
        ),
        (
            history(FALLING, FALLING, accuracy=0.75, val_accuracy=0.74),
            None,
            (
                "under-fitting: at the end, the accuracy is 0.75 on training images and 0.74 "
                "on validation images; more epochs, a larger trained part or less "
                "augmentation help"
            ),
        ),
    ],
)
def test_each_rule_on_a_curve_made_for_it(curves, start, reading):
    assert read_curves(curves, 1000, start=start) == reading


@pytest.mark.parametrize(
    ("curves", "start", "images"),
    [
        (history(FALLING, FALLING), None, 1000),
        (history(FALLING, FALLING), 0.9, 1000),
        # A fitted head: all training images are classified correctly from the start.
        (history([0.02, 0.01, 0.03, 0.01, 0.02, 0.01], 0.2, 1.0), 0.2, 1000),
        # The best epoch is early, but the validation loss stays near it.
        (history(FALLING, [0.7, 0.4, 0.3, *[0.31] * 7]), None, 1000),
        # Better than before training only in the end, as after a warm-up of new layers.
        (history(FALLING, [0.7, 0.6, 0.5, *[0.25] * 7]), 0.3, 1000),
        # On 8 images, such a gap may be chance.
        (history(FALLING, FALLING, 0.99, 0.85), None, 8),
        # It falls up to the end, whose mean is therefore above its lowest.
        (history(0.3, STRAIGHT), None, 1000),
        # The training loss rises only once.
        (history([0.7, 0.4, 0.55, 0.3, 0.28, 0.27, 0.26, 0.26], FALLING[:8]), None, 1000),
    ],
)
def test_curves_on_which_no_rule_applies(curves, start, images):
    assert read_curves(curves, images, start=start).startswith(
        "no under-fitting, no over-fitting and no rate that is too high; at the end, the accuracy "
    )


def test_a_training_that_diverged_had_too_high_a_rate():
    for number in (0, 1, 5):
        found = read_curves(history(FALLING, FALLING)[:number], 1000, diverged=True)
        assert found.startswith(
            f"rate too high: the loss is no longer finite in epoch {number + 1}; a lower"
        )


def test_few_epochs_are_not_read():
    told = "too few epochs to read the curves: 2, and 3 are needed"
    assert read_curves(history(FALLING, FALLING)[:2], 1000) == told
    assert read_curves(history(FALLING, FALLING)[:3], 1000) != told


def test_scales_of_the_two_losses_are_not_compared():
    """Label smoothing and class weights change only the training loss."""
    for offset in (0.0, 0.5):
        assert read_curves(history(FALLING + offset, FALLING), 1000).startswith("no under-fitting")


def test_shares_of_mixtures_are_not_read_as_under_fitting_or_as_a_rate_too_high():
    """Their draws move the training loss, and their accuracy counts only the larger share."""
    for curves in (
        history(ZIGZAG, FALLING, accuracy=0.6, val_accuracy=0.59),
        history(FALLING[::-1], FALLING, accuracy=0.6, val_accuracy=0.59),
        history(0.69, FALLING, accuracy=0.6, val_accuracy=0.55),
        history(FALLING, FALLING, accuracy=0.6, val_accuracy=0.59),
    ):
        assert not read_curves(curves, 1000).startswith("no under-fitting")
        assert read_curves(curves, 1000, mixed=True).startswith("neither over-fitting nor a rate")


def test_validation_losses_of_a_training_on_mixtures_are_read():
    for loss, val_loss, reading in (
        (FALLING[::-1], FALLING[::-1], "rate too high: the training loss rises"),
        (ZIGZAG, U_SHAPED, "over-fitting: the validation loss rises"),
        (STRAIGHT, STRAIGHT, "under-fitting: both losses still fall"),
    ):
        curves = history(loss, val_loss, accuracy=0.6, val_accuracy=0.9)
        assert read_curves(curves, 1000, mixed=True).startswith(reading)
