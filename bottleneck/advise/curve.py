"""Learning curves: scores with fewer images, and power-law forecasts for more."""

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
_DRAWS = 400
_LEAST_SIZES = 3


@dataclass(frozen=True)
class PowerLaw:
    """The power law a + b n^-c, for the error with n training images.

    Attributes
    ----------
    asymptote, scale, exponent : float
        a >= 0, b >= 0 and c, from 0.05 to 2.
    """

    asymptote: float
    scale: float
    exponent: float

    def error(self, images: float) -> float:
        """Return the error on held-out images with a number of training images.

        Parameters
        ----------
        images : float
            Number of training images.

        Returns
        -------
        float
            Error rate.
        """
        return float(self.asymptote + self.scale * images**-self.exponent)


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


def learning_curve(bench: Bench, scored: Sequence[Scored], *, seed: int = 0) -> LearningCurve:
    """Build a learning curve, fit a power law and forecast.

    Parameters
    ----------
    bench : Bench
        The rows and folds.
    scored : sequence of Scored
        Scores at three or more sizes.
    seed : int
        Seed of the bootstrap draws for the forecasts' intervals.

    Returns
    -------
    LearningCurve
    """
    sizes = np.array([each.trained.mean() for each in scored])
    accuracies = [bench.accuracy(each) for each in scored]
    law, forecasts = forecast_gain(sizes, accuracies, bench.images, seed)
    points = []
    for size, each, samples in zip(sizes, scored, accuracies, strict=True):
        accuracy, trained = samples.estimate().share(), float(each.train_accuracy.mean())
        points.append(
            CurvePoint(
                images=round(size),
                accuracy=accuracy,
                log_loss=bench.log_loss(each).estimate(),
                train_accuracy=trained,
                train_log_loss=float(each.train_log_loss.mean()),
                gap=trained - accuracy.value,
            )
        )
    return LearningCurve(points, law, forecasts)


def fit_power_law(images: np.ndarray, errors: np.ndarray, weights: np.ndarray) -> PowerLaw:
    """Fit a + b n^-c by weighted least squares (Hestness et al. 2017, Deep Learning Scaling is
    Predictable, Empirically, section 3).

    For each c the optimal a and b, both at least 0, solve a linear problem.

    Parameters
    ----------
    images, errors : np.ndarray
        Shape (m,): at least three sizes.
    weights : np.ndarray
        Shape (m,): proportional to the inverse variance of each error.

    Returns
    -------
    PowerLaw
    """  # noqa: D205 - the source does not fit into one line
    from scipy.optimize import minimize_scalar, nnls

    roots = np.sqrt(weights / weights.sum())

    def linear_fit(log_exponent: float) -> tuple[np.ndarray, float]:
        powers = (images / images[0]) ** -np.exp(log_exponent)
        found: tuple[np.ndarray, float] = nnls(
            roots[:, None] * np.column_stack([np.ones_like(powers), powers]), roots * errors
        )
        return found

    best = minimize_scalar(
        lambda log_exponent: linear_fit(log_exponent)[1],
        bounds=np.log(_EXPONENTS),
        method="bounded",
    )
    exponent, (asymptote, scale) = float(np.exp(best.x)), linear_fit(best.x)[0]
    return PowerLaw(float(asymptote), float(scale * images[0] ** exponent), exponent)


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
        Shape (m,): sizes.
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
        For twice and four times as many images.
    """
    errors = 1 - np.stack([each.values for each in accuracies])
    variances = errors.reshape(len(errors), -1).var(axis=1)
    # Keep one size from dominating only because its folds happen to agree.
    weights = 1 / (variances + variances.mean() / 10 + np.finfo(float).eps)
    law = fit_power_law(images, errors.mean(axis=(1, 2)), weights)
    samples = accuracies[0]
    drawn = np.einsum("drb,mrb->dm", samples.resampled(_DRAWS, seed), errors) / errors[0].size
    firsts = np.random.default_rng(seed).integers(len(images) - _LEAST_SIZES + 1, size=_DRAWS)
    laws = [
        fit_power_law(images[first:], own[first:], weights[first:])
        for first, own in zip(firsts, drawn, strict=True)
    ]

    def forecast(factor: int) -> Forecast:
        reached = [1 - each.error(factor * now) for each in (law, *laws)]
        gained = [each.error(now) - each.error(factor * now) for each in (law, *laws)]
        accuracy, gain = (samples.widened(value, draws) for value, *draws in (reached, gained))
        return Forecast(factor, factor * now, accuracy.share(), gain)

    return law, [forecast(factor) for factor in _FACTORS]
