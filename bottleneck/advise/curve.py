"""Estimates with confidence intervals, and learning curves with power-law forecasts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import hypot
from typing import Self

import numpy as np
from scipy.special import stdtrit

from bottleneck.advise.power_law import PowerLaw, fit_power_law, fit_power_laws
from bottleneck.experiments import half_width

__all__ = [
    "CurvePoint",
    "Estimate",
    "Forecast",
    "LearningCurve",
    "Samples",
    "forecast_gain",
]

_TWO_SIDED = (0.025, 0.975)
_NORMAL = 1.96
"""Upper quantiles of a normal distribution."""
_FACTORS = (2, 4)
_DRAWS = 400
_LEAST_SIZES = 3


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval.

    Attributes
    ----------
    value : float
        The estimate.
    low, high : float
        Limits of the interval.
    """

    value: float
    low: float
    high: float

    def share(self) -> Self:
        """Clip the interval to 0 to 1, for a proportion.

        Returns
        -------
        Estimate
        """
        return replace(self, low=max(0.0, self.low), high=min(1.0, self.high))

    def difference(self) -> Self:
        """Clip the interval to -1 to 1, for a difference of proportions.

        Returns
        -------
        Estimate
        """
        return replace(self, low=max(-1.0, self.low), high=min(1.0, self.high))

    def __str__(self) -> str:
        return f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


@dataclass(frozen=True, eq=False)
class Samples:
    """A metric for each repetition and block of held-out images.

    Folds share training images and are not independent, so intervals come from the corrected
    resampled t statistic, see `bottleneck.experiments.compare`.

    Attributes
    ----------
    values : np.ndarray
        Shape (r, b).
    ratio : float
        Held-out images of a block per training image, at the full size. For smaller subsets, which
        overlap less, the intervals are slightly too wide.
    crossed : bool
        Whether every repetition holds out the same blocks, those of the ``val`` images.
    least : float
        Minimum half-width of an interval, because identical results leave some uncertainty too.
    """

    values: np.ndarray
    ratio: float
    crossed: bool
    least: float = 0.0

    def __sub__(self, other: Self) -> Self:
        """Return the paired differences of metrics on the same folds."""
        return replace(self, values=self.values - other.values)

    def estimate(self, comparisons: int = 1) -> Estimate:
        """Return the mean with its interval, corrected for several comparisons.

        Parameters
        ----------
        comparisons : int
            Number of simultaneous intervals (Bonferroni correction).

        Returns
        -------
        Estimate
            The mean, and the lower and upper end of its interval.
        """
        cells = self.values.mean(axis=0) if self.crossed else self.values.ravel()
        half = half_width(cells.tolist(), self.ratio, comparisons)
        if self.crossed and len(self.values) > 1:
            half = hypot(half, half_width(self.values.mean(axis=1).tolist(), 0, comparisons))
        half, mean = max(half, self.least), float(self.values.mean())
        return Estimate(mean, mean - half, mean + half)

    def resampled(self, draws: int, seed: int) -> np.ndarray:
        """Return the weight of each cell in bootstrap draws, of shape (draws, r, b).

        Cells are drawn; if repetitions hold out the same blocks, repetitions and blocks are.

        Parameters
        ----------
        draws : int
            Number of draws.
        seed : int
            Seed of the random generator.

        Returns
        -------
        np.ndarray
            int of shape (draws, r, b): the number of times that each draw has each cell.
        """
        generator = np.random.default_rng(seed)
        r, b = self.values.shape
        if not self.crossed:
            return generator.multinomial(r * b, [1 / (r * b)] * (r * b), draws).reshape(-1, r, b)
        repeats = generator.multinomial(r, [1 / r] * r, draws)
        return repeats[:, :, None] * generator.multinomial(b, [1 / b] * b, draws)[:, None, :]

    def widened(self, value: float, draws: Sequence[float]) -> Estimate:
        """Return a value with the interval of its bootstrap draws, widened.

        The plain interval is too narrow: the bootstrap treats cells as independent, and as normal
        where a t distribution applies.

        Parameters
        ----------
        value : float
            The metric of all cells.
        draws : sequence of float
            The same metric of each draw of `resampled`.

        Returns
        -------
        Estimate
            `value` with the lower and upper end of its interval.
        """
        cells = self.values.shape[1] if self.crossed else self.values.size
        quantile = float(stdtrit(cells - 1, _TWO_SIDED[1]))
        widening = quantile / _NORMAL * np.sqrt((1 + cells * self.ratio) * cells / (cells - 1))
        low, high = (value + widening * (each - value) for each in np.quantile(draws, _TWO_SIDED))
        return Estimate(value, float(min(value, low)), float(max(value, high)))


@dataclass(frozen=True)
class CurvePoint:
    """Scores of heads fitted on one number of images.

    Attributes
    ----------
    images : int
        Number of training images, averaged over the folds.
    accuracy, log_loss : Estimate
        On held-out images; the log loss in nats.
    train_accuracy, train_log_loss : float
        On the training images.
    gap : float
        Training accuracy minus held-out accuracy.
    """

    images: int
    accuracy: Estimate
    log_loss: Estimate
    train_accuracy: float
    train_log_loss: float
    gap: float


@dataclass(frozen=True)
class Forecast:
    """The forecast for more images.

    Attributes
    ----------
    factor : int
        Factor by which the number of training images grows.
    images : int
        The resulting number of training images.
    accuracy, gain : Estimate
        Accuracy on held-out images, and its gain over that with all current images.
    """

    factor: int
    images: int
    accuracy: Estimate
    gain: Estimate


@dataclass(frozen=True)
class LearningCurve:
    """Scores as a function of the number of training images.

    Attributes
    ----------
    points : list of CurvePoint
        In ascending order of size.
    law : PowerLaw
        Fitted to the error, 1 - accuracy.
    forecasts : list of Forecast
        For twice and four times as many images.
    """

    points: list[CurvePoint]
    law: PowerLaw
    forecasts: list[Forecast]


def forecast_gain(
    images: np.ndarray, accuracies: Sequence[Samples], now: int, seed: int
) -> tuple[PowerLaw, list[Forecast]]:
    """Fit a power law to errors and forecast the gain from more images.

    The intervals come from fits to bootstrap samples of all folds (Efron and Tibshirani 1993, An
    Introduction to the Bootstrap, section 13.3), and are widened because folds share training
    images, see `Samples.widened`. Each fit leaves out some of the smallest sizes and keeps at least
    three, because few images do not follow the law yet (Hestness et al. 2017, section 5).

    Parameters
    ----------
    images : np.ndarray
        Shape (m,): sizes, of which several may be the same.
    accuracies : sequence of Samples
        Accuracies at each size.
    now : int
        Current number of training images.
    seed : int
        Seed of the draws.

    Returns
    -------
    law : PowerLaw
        The best fit.
    forecasts : list of Forecast
        For twice and four times as many images. Nothing is known of them if there are fewer than
        three sizes, as of so few groups that none can be left out.
    """
    errors = 1 - np.stack([each.values for each in accuracies])
    if len(np.unique(images)) < _LEAST_SIZES:
        error = float(errors[-1].mean())
        accuracy, gain = Estimate(1 - error, 0.0, 1.0), Estimate(0.0, error - 1, error)
        unknown = [Forecast(factor, factor * now, accuracy, gain) for factor in _FACTORS]
        return PowerLaw(error, 0.0, 1.0), unknown
    variances = errors.reshape(len(errors), -1).var(axis=1)
    # Keep one size from dominating only because its folds happen to agree.
    weights = 1 / (variances + variances.mean() / 10 + np.finfo(float).eps)
    law = fit_power_law(images, errors.mean(axis=(1, 2)), weights)
    samples = accuracies[0]
    drawn = np.einsum("drb,mrb->dm", samples.resampled(_DRAWS, seed), errors) / errors[0].size
    firsts = np.random.default_rng(seed).integers(len(images) - _LEAST_SIZES + 1, size=_DRAWS)
    laws = [
        each
        for first in np.unique(firsts)
        for each in fit_power_laws(images[first:], drawn[firsts == first, first:], weights[first:])
    ]

    def forecast(factor: int) -> Forecast:
        reached = [1 - each.error(factor * now) for each in (law, *laws)]
        gained = [each.error(now) - each.error(factor * now) for each in (law, *laws)]
        accuracy, gain = (samples.widened(value, draws) for value, *draws in (reached, gained))
        return Forecast(factor, factor * now, accuracy.share(), gain.difference())

    return law, [forecast(factor) for factor in _FACTORS]
