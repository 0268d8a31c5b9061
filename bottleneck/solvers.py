"""Linear algebra under the heads, arrays in, arrays out."""

import numpy as np
from scipy.linalg import qr

__all__ = ["span_basis"]


def span_basis(Z: np.ndarray) -> np.ndarray | None:
    """Return an orthonormal basis of the span of the rows, where that is smaller than the space.

    The weights of every L2-penalised linear classifier lie in the span of the rows that it is
    fitted on (the representer theorem: Schölkopf, Herbrich and Smola 2001, A Generalized
    Representer Theorem). So fitting on ``Z @ basis``, of at most n_samples columns, gives the same
    solutions as fitting on Z, for every penalty and loss, and ``basis @ w`` lifts the weights back.

    Parameters
    ----------
    Z : np.ndarray
        Shape (n_samples, n_features).

    Returns
    -------
    np.ndarray or None
        Shape (n_features, n_samples); None where n_features is not above n_samples.
    """
    n_samples, n_features = Z.shape
    if n_features <= n_samples:
        return None
    basis: np.ndarray = qr(Z.T, mode="economic", check_finite=False)[0]
    return basis
