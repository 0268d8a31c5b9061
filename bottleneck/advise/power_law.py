"""Power laws of the error, fitted to learning curves."""

from dataclasses import dataclass

import numpy as np

__all__ = ["PowerLaw", "fit_power_law", "fit_power_laws"]

_EXPONENTS = (0.05, 2.0)
_TRIED, _ROUNDS = 33, 4
"""Exponents tried in each round of a fit; the last are a few millionths apart."""


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
    return fit_power_laws(images, errors[None], weights)[0]


def fit_power_laws(images: np.ndarray, errors: np.ndarray, weights: np.ndarray) -> list[PowerLaw]:
    """Fit a power law to each of several curves at once: a forecast takes hundreds.

    Parameters
    ----------
    images, weights : np.ndarray
        As for `fit_power_law`.
    errors : np.ndarray
        Shape (f, m).

    Returns
    -------
    list of PowerLaw
        f of them.
    """
    shares, scaled = weights / weights.sum(), images / images[0]
    low, high = np.log(_EXPONENTS)
    tried = np.broadcast_to(np.linspace(low, high, _TRIED), (len(errors), _TRIED))
    # Each round looks more closely around the best exponent so far.
    for width in (high - low) / (_TRIED - 1) * (2 / (_TRIED - 1)) ** np.arange(_ROUNDS):
        powers = scaled ** -np.exp(tried)[..., None]
        asymptote, scale = _linear_fits(powers, errors[:, None], shares)
        losses = (
            (asymptote[..., None] + scale[..., None] * powers - errors[:, None]) ** 2
        ) @ shares
        best = losses.argmin(axis=1)[:, None]
        found = [np.take_along_axis(each, best, 1)[:, 0] for each in (asymptote, scale, tried)]
        around = found[2][:, None] + np.linspace(-width, width, _TRIED)
        tried = np.clip(around, low, high)
    exponents = np.exp(found[2])
    rows = zip(found[0], found[1] * images[0] ** exponents, exponents, strict=True)
    return [PowerLaw(*map(float, row)) for row in rows]


def _linear_fits(
    powers: np.ndarray, errors: np.ndarray, shares: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return a and b, both at least 0, with the least sum of shares (a + b powers - errors)^2."""
    mean_power, mean_error = powers @ shares, errors @ shares
    apart = powers - mean_power[..., None]
    covariance = (apart * errors) @ shares
    scale = np.maximum(0, covariance / np.maximum(apart**2 @ shares, np.finfo(float).tiny))
    asymptote = mean_error - scale * mean_power
    alone = (powers * errors) @ shares / (powers**2 @ shares)
    return np.maximum(0, asymptote), np.where(asymptote < 0, alone, scale)
