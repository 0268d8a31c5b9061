"""What was measured on folds, and the intervals that it gives."""

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
"""The upper of these quantiles of a normal distribution."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval.

    Attributes
    ----------
    value : float
        The estimate.
    low, high : float
        Of the interval.
    """

    value: float
    low: float
    high: float

    def share(self) -> Self:
        """Return it with an interval of what is a share: from 0 to 1."""
        return replace(self, low=max(0.0, self.low), high=min(1.0, self.high))

    def __str__(self) -> str:
        return f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


@dataclass(frozen=True, eq=False)
class Samples:
    """A metric by repetition and block of held-out images.

    Folds share the images that are trained on, so that they are not independent: intervals are
    those of the corrected resampled t statistic, see `bottleneck.experiments.compare`.

    Attributes
    ----------
    values : np.ndarray
        Shape (r, b).
    ratio : float
        How many images are held out in a block for each that is trained on at the full size.
        Smaller subsets overlap less, so that their intervals are rather too wide.
    crossed : bool
        Whether every repetition holds out the same blocks: those of the ``val`` images.
    least : float
        What an interval reaches in any case: blocks that are all alike leave some doubt as well.
    """

    values: np.ndarray
    ratio: float
    crossed: bool
    least: float = 0.0

    def __sub__(self, other: Self) -> Self:
        """Pair metrics of the same folds."""
        return replace(self, values=self.values - other.values)

    @property
    def mean(self) -> float:
        """Over all repetitions and blocks."""
        return float(self.values.mean())

    @property
    def deviation(self) -> float:
        """Over all repetitions and blocks."""
        return float(self.values.std(ddof=1))

    def estimate(self, comparisons: int = 1) -> Estimate:
        """Return the mean with its interval, one of several that are to hold at once.

        Parameters
        ----------
        comparisons : int
            How many intervals are to hold at once.

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
        """Return what each cell counts in draws with replacement, of shape (draws, r, b).

        Cells are drawn; where repetitions hold out the same blocks, repetitions and blocks.

        Parameters
        ----------
        draws : int
            Number of draws.
        seed : int
            Seed of the random generator.

        Returns
        -------
        np.ndarray
            int of shape (draws, r, b): how often each draw has each cell.
        """
        generator = np.random.default_rng(seed)
        r, b = self.values.shape
        if not self.crossed:
            return generator.multinomial(r * b, [1 / (r * b)] * (r * b), draws).reshape(-1, r, b)
        repeats = generator.multinomial(r, [1 / r] * r, draws)
        return repeats[:, :, None] * generator.multinomial(b, [1 / b] * b, draws)[:, None, :]

    def widened(self, value: float, draws: Sequence[float]) -> Estimate:
        """Return a number with the interval of what `resampled` metrics make of it.

        That is too narrow: draws take the cells for independent, and for normal what has a t
        distribution.

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
