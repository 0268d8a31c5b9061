"""Learning curves: what heads reach with fewer images, and what more are expected to bring."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bottleneck.advise.power_law import PowerLaw, forecast_gain
from bottleneck.advise.samples import Estimate, Samples
from bottleneck.advise.scoring import Bench, Scored

__all__ = ["CurvePoint", "Forecast", "LearningCurve", "learning_curve"]

_FACTORS = (2, 4)


@dataclass(frozen=True)
class CurvePoint:
    """What heads that are fitted on so many images reach.

    Attributes
    ----------
    images : int
        Fitted on, on average over the folds.
    accuracy, log_loss : Estimate
        Of held-out images; the log loss in nats.
    train_accuracy, train_log_loss : float
        Of the images fitted on.
    gap : float
        By how much their accuracy is above that of those held out.
    """

    images: int
    accuracy: Estimate
    log_loss: Estimate
    train_accuracy: float
    train_log_loss: float
    gap: float


@dataclass(frozen=True)
class Forecast:
    """What a power law says of more images.

    Attributes
    ----------
    factor : int
        How many times the training images that there are.
    images : int
        How many these would be.
    accuracy, gain : Estimate
        Of held-out images, and by how much it is above that of all images there are.
    """

    factor: int
    images: int
    accuracy: Estimate
    gain: Estimate


@dataclass(frozen=True)
class LearningCurve:
    """Scores by the number of training images.

    Attributes
    ----------
    points : list of CurvePoint
        By size.
    law : PowerLaw
        Fitted to the error, which is 1 less the accuracy.
    forecasts : list of Forecast
        For twice and four times the images.
    """

    points: list[CurvePoint]
    law: PowerLaw
    forecasts: list[Forecast]


def learning_curve(bench: Bench, scored: Sequence[Scored], *, seed: int = 0) -> LearningCurve:
    """Put a curve together, and fit and forecast it.

    Parameters
    ----------
    bench : Bench
        The rows.
    scored : sequence of Scored
        Of three sizes or more.
    seed : int
        Of the draws that give the forecasts' intervals.
    """
    points = [_point(bench, each) for each in scored]
    errors = [_error(bench, each) for each in scored]
    sizes = np.array([float(each.trained.mean()) for each in scored])
    law, forecasts = forecast_gain(sizes, errors, bench.images, _FACTORS, seed)
    return LearningCurve(
        points,
        law,
        [
            Forecast(factor, factor * bench.images, _one_less(error), gain)
            for factor, (error, gain) in zip(_FACTORS, forecasts, strict=True)
        ],
    )


def _point(bench: Bench, scored: Scored) -> CurvePoint:
    accuracy = bench.accuracy(scored).estimate().share()
    train_accuracy = float(scored.train_accuracy.mean())
    return CurvePoint(
        images=round(float(scored.trained.mean())),
        accuracy=accuracy,
        log_loss=bench.log_loss(scored).estimate(),
        train_accuracy=train_accuracy,
        train_log_loss=float(scored.train_log_loss.mean()),
        gap=train_accuracy - accuracy.value,
    )


def _error(bench: Bench, scored: Scored) -> Samples:
    return bench.samples(scored.log_probabilities.argmax(axis=2) != bench.codes)


def _one_less(error: Estimate) -> Estimate:
    """Return the accuracy that an error leaves, which is no share above 1 or below 0."""
    return Estimate(1 - error.value, 1 - error.high, 1 - error.low).share()
