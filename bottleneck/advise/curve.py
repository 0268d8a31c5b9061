"""Learning curves: what heads reach with fewer images, and what a power law says of more."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bottleneck.advise.samples import Estimate, Samples
from bottleneck.advise.scoring import Bench, Scored

__all__ = [
    "CurvePoint",
    "Forecast",
    "LearningCurve",
    "PowerLaw",
    "fit_power_law",
    "forecast_gain",
    "learning_curve",
]

_FACTORS = (2, 4)
_EXPONENTS = (0.05, 2.0)
_STEPS = 33
_ZOOMS = 3
_DRAWS = 400
_LEAST_SIZES = 3


@dataclass(frozen=True)
class PowerLaw:
    """The error as a + b n^-c of n images.

    Attributes
    ----------
    asymptote, scale, exponent : float
        a >= 0, b >= 0 and c, from 0.05 to 2.
    """

    asymptote: float
    scale: float
    exponent: float

    def error(self, images: float) -> float:
        """Return the share of held-out images that a head of so many images gets wrong."""
        return float(self.asymptote + self.scale * images**-self.exponent)


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
    errors = [
        bench.samples(each.log_probabilities.argmax(axis=2) != bench.codes) for each in scored
    ]
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


def _one_less(error: Estimate) -> Estimate:
    """Return the accuracy that an error leaves, which is no share above 1 or below 0."""
    return Estimate(1 - error.value, 1 - error.high, 1 - error.low).share()


def fit_power_law(images: np.ndarray, errors: np.ndarray, weights: np.ndarray) -> PowerLaw:
    """Fit a + b n^-c by weighted least squares (Hestness et al. 2017, Deep Learning Scaling is
    Predictable, Empirically, section 3).

    For each c the best a and b, both at least 0, are those of a linear problem; c is searched on a
    grid that is refined around its best value.

    Parameters
    ----------
    images, errors : np.ndarray
        Shape (m,): at least three sizes.
    weights : np.ndarray
        Shape (m,): one over each error's variance, up to a factor.
    """  # noqa: D205 - the source does not fit into one line
    weights = weights / weights.sum()
    low, high = np.log(_EXPONENTS)
    for _ in range(_ZOOMS):
        exponents = np.exp(np.linspace(low, high, _STEPS))
        asymptotes, scales, residuals = _linear_parts(images, errors, weights, exponents)
        best = int(residuals.argmin())
        step = (high - low) / (_STEPS - 1)
        middle = np.log(exponents[best])
        low, high = np.clip([middle - step, middle + step], *np.log(_EXPONENTS))
    return PowerLaw(float(asymptotes[best]), float(scales[best]), float(exponents[best]))


def _linear_parts(
    images: np.ndarray, errors: np.ndarray, weights: np.ndarray, exponents: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each exponent the best a and b at or above 0, and what remains of the errors."""
    powers = images[None, :] ** -exponents[:, None]
    mean, mean_error = powers @ weights, float(errors @ weights)
    covariance = (powers * errors) @ weights - mean * mean_error
    variance = (powers**2) @ weights - mean**2
    scale = np.maximum(covariance / np.maximum(variance, np.finfo(float).tiny), 0)
    asymptote = mean_error - scale * mean
    below = asymptote < 0
    through_zero = ((powers * errors) @ weights) / ((powers**2) @ weights)
    scale = np.where(below, through_zero, scale)
    asymptote = np.where(below, 0, asymptote)
    left = errors - asymptote[:, None] - scale[:, None] * powers
    return asymptote, scale, (left**2) @ weights


def forecast_gain(
    images: np.ndarray, curves: list[Samples], now: float, factors: tuple[int, ...], seed: int
) -> tuple[PowerLaw, list[tuple[Estimate, Estimate]]]:
    """Fit a power law to errors and forecast what more images bring.

    The intervals are those of fits to curves drawn with replacement from all folds (Efron and
    Tibshirani 1993, An Introduction to the Bootstrap, section 13.3), widened as folds share the
    images that they train on, see `Samples.widening`. Each leaves out some of the smallest sizes,
    of three or more: few images do not follow the law yet (Hestness et al. 2017, section 5).

    Parameters
    ----------
    images : np.ndarray
        Shape (m,): sizes.
    curves : list of Samples
        The errors at each size.
    now : float
        Images that there are.
    factors : tuple of int
        How many times as many there might be.
    seed : int
        Of the draws.

    Returns
    -------
    law : PowerLaw
        The best fit.
    forecasts : list of (Estimate, Estimate)
        For each factor the error, and by how much it is below that of now.
    """
    values = np.stack([each.values for each in curves])
    weights = _weights(values.reshape(len(values), -1).var(axis=1))
    law = fit_power_law(images, values.mean(axis=(1, 2)), weights)
    counts = curves[0].resampled(_DRAWS, seed)
    drawn = np.einsum("drb,mrb->dm", counts, values) / values[0].size
    firsts = np.random.default_rng(seed).integers(len(images) - _LEAST_SIZES + 1, size=_DRAWS)
    laws = [
        fit_power_law(images[first:], errors[first:], weights[first:])
        for first, errors in zip(firsts, drawn, strict=True)
    ]
    widening = curves[0].widening
    forecasts = []
    for factor in factors:
        errors = np.array([each.error(factor * now) for each in laws])
        gains = np.array([each.error(now) for each in laws]) - errors
        error = law.error(factor * now)
        forecasts.append(
            (_widened(error, errors, widening), _widened(law.error(now) - error, gains, widening))
        )
    return law, forecasts


def _weights(variances: np.ndarray) -> np.ndarray:
    """Return what each size counts; none rules alone because its folds happen to agree."""
    return np.asarray(1 / (variances + variances.mean() / 10 + np.finfo(float).eps))


def _widened(value: float, draws: np.ndarray, widening: float) -> Estimate:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(
        value,
        float(value - widening * max(0.0, value - low)),
        float(value + widening * max(0.0, high - value)),
    )
