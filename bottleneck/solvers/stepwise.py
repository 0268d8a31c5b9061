"""Fit a linear classifier for one value of C after the other, as long as the caller asks."""

from collections.abc import Callable

import numpy as np

from bottleneck.solvers.losses import Targets, evaluate_rows
from bottleneck.solvers.path import PathPoint, Preconditioner, follow_path

__all__ = ["step_path"]


def step_path(
    rows: np.ndarray, labels: np.ndarray, weights: np.ndarray, loss: str, tolerance: float
) -> Callable[[float], PathPoint]:
    """Return a function that fits for one `C`, starting from its last solution.

    `bottleneck.solvers.path.fit_path` fits for all values of `C`, of which most are not needed
    where the caller can tell early that larger ones overfit.

    Parameters
    ----------
    rows, labels, loss, tolerance
        As for `bottleneck.solvers.path.fit_path`.
    weights : np.ndarray
        Shape (n,): sample weights, 0 for rows that are not fitted on.

    Returns
    -------
    callable
        Takes a `C`, best in ascending order, and returns the solution.
    """
    fit = weights > 0
    targets, own = Targets.of(labels, loss), rows[fit]
    counts, targets_fit = weights[fit, None].astype(rows.dtype), targets.take(fit)
    preconditioner = Preconditioner(own)
    last = np.zeros((rows.shape[1] + 1, targets.width))

    def step(C: float) -> PathPoint:
        nonlocal last
        (point,) = follow_path(
            lambda _folds, columns: evaluate_rows(own, targets_fit, counts, columns),
            [C],
            weights[:, None],
            targets=targets,
            preconditioner=preconditioner,
            tolerance=tolerance,
            start=last,
        )
        last = np.vstack([point.weight[0].T, point.bias])
        return point

    return step
