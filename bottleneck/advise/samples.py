"""Measurements on folds, and their confidence intervals."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import hypot
from typing import Self

import numpy as np
from scipy.special import stdtrit

from bottleneck.experiments import half_width

__all__ = ["Estimate", "Samples"]

_TWO_SIDED = (0.025, 0.975)
_NORMAL = 1.96
"""Upper quantiles of a normal distribution."""


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
        """Return the estimate with its interval clipped to 0 to 1, for a proportion."""
        return replace(self, low=max(0.0, self.low), high=min(1.0, self.high))

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

    @property
    def mean(self) -> float:
        """Mean over all repetitions and blocks."""
        return float(self.values.mean())

    @property
    def deviation(self) -> float:
        """Standard deviation over all repetitions and blocks."""
        return float(self.values.std(ddof=1))

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
        half = max(half, self.least)
        return Estimate(self.mean, self.mean - half, self.mean + half)

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
