"""Fit linear classifiers for many values of C, with SciPy's L-BFGS-B.

The objective is that of scikit-learn's `LogisticRegression` and `LinearSVC`,

    C * sum_i c_i loss(y_i, w x_i + b) + |w|^2 / 2,

except that the intercept b is never penalised (`LinearSVC` does penalise it). All classes of a fold
share matrix products, and each C starts from the solution of a smaller one. The variables are
preconditioned, so that the Hessian is near the identity, by the rows' largest singular values
(Frangella, Tropp and Udell 2023, Randomized Nyström Preconditioning): on correlated features,
L-BFGS then needs a third of the steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Self

import numpy as np

from bottleneck.solvers.losses import Targets, evaluate_rows, in_steps
from bottleneck.solvers.threads import scipy_on_one_thread

__all__ = ["Minimum", "PathPoint", "Preconditioner", "fit_path", "minimise", "step_path"]

Minimum = tuple[np.ndarray, np.ndarray, bool]
"""Weights and intercepts (r + 1, k), objectives (k,) or (1,), and whether the solver converged."""

_RANK = 100
"""Number of singular values of the preconditioner; with 50 or 200 it takes about as long."""
_STEPS = 5000
_LAST_GAIN = 0.1
"""Fraction of the tolerance that the last step may gain, because later steps would add up."""
_NEAR = 1e-6
"""If L-BFGS-B fails, a solution counts as converged if half the squared gradient is below this
fraction of the objective: about half the squared Newton decrement, as the Hessian is near the
identity."""
_LARGE = 1e12
"""L-BFGS-B compares gains with the objective only if that is above 1."""


@dataclass(frozen=True)
class PathPoint:
    """The solutions for one `C`.

    Attributes
    ----------
    C : float
        Inverse strength of the penalty.
    weight : np.ndarray
        Shape (f, k, r), by fold and class; k is 1 for two classes.
    bias : np.ndarray
        Shape (f, k).
    objective : np.ndarray
        Shape (f, k), or (f, 1) for softmax, which has one objective for all classes.
    converged : np.ndarray
        bool of shape (f,).
    """

    C: float
    weight: np.ndarray
    bias: np.ndarray
    objective: np.ndarray
    converged: np.ndarray

    @classmethod
    def joined(cls, points: Sequence[Self]) -> Self:
        """Build it from the solutions of some folds each, for the same `C`."""
        names = ("weight", "bias", "objective", "converged")
        arrays = (np.concatenate([getattr(each, name) for each in points]) for name in names)
        return cls(points[0].C, *arrays)

    @classmethod
    def of(cls, C: float, minima: Sequence[Minimum]) -> Self:
        """Build it from the minimum of each fold."""
        columns, objective, converged = map(np.stack, zip(*minima, strict=True))
        return cls(C, columns[:, :-1].swapaxes(1, 2), columns[:, -1], objective, converged)


def fit_path(
    rows: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    grid: Sequence[float],
    loss: str,
    *,
    tolerance: float | None = None,
) -> list[PathPoint]:
    """Fit a linear classifier for every `C` and every fold.

    Parameters
    ----------
    rows : np.ndarray
        Shape (n, r), float32 or float64; products are computed in this type.
    labels : np.ndarray
        int of shape (n,) from 0 on; or bool of shape (n, k), where each column is a binary problem.
    weights : np.ndarray
        Shape (n, f): sample weights in each fold, 0 where a row is held out; or (n, f, k), for each
        column of labels of shape (n, k).
    grid : sequence of float
        Values of `C`, above 0.
    loss : str
        ``softmax``, for labels of shape (n,); or ``logistic`` or ``squared_hinge``, which fit one
        classifier per class against the rest. Two classes are always one problem.
    tolerance : float, optional
        As for `step_path`.

    Returns
    -------
    list of PathPoint
        In the order of `grid`.
    """
    preconditioner = Preconditioner(rows[_counting(weights)])
    found: dict[float, list[PathPoint]] = {C: [] for C in sorted(set(grid))}
    for fold in range(weights.shape[1]):
        own = weights[:, [fold]]
        step = step_path(
            rows, labels, own, loss, tolerance=tolerance, preconditioner=preconditioner
        )
        for C, points in found.items():
            points.append(step(C))
    return [PathPoint.joined(found[C]) for C in grid]


def step_path(
    rows: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    loss: str,
    *,
    tolerance: float | None = None,
    preconditioner: "Preconditioner | None" = None,
) -> Callable[[float], PathPoint]:
    """Return a function that fits for one `C` at a time, starting from the nearest solution so far.

    `fit_path` fits for all values of `C`, of which most are not needed where the caller can tell
    early that larger ones overfit. All folds are one problem here, of the sum of their objectives:
    where rows are few, most of the time is spent between the products of matrices.

    Parameters
    ----------
    rows, labels, weights, loss
        As for `fit_path`.
    tolerance : float, optional
        Approximate relative tolerance of the objective: the solver stops when a step gains less
        than a tenth of it, or when rounding errors hide the gain. By default 1e-7 for float32, and
        1e-12 for float64.
    preconditioner : Preconditioner, optional
        By default that of the rows that are fitted on.

    Returns
    -------
    callable
        Takes a `C` and returns the solutions; quickest in ascending order.
    """
    if tolerance is None:
        tolerance = 1e-7 if rows.dtype == np.float32 else 1e-12
    fit, folds = _counting(weights), weights.shape[1]
    order, parts = in_steps(rows, np.flatnonzero(fit))
    targets = Targets.of(labels, loss).take(order)
    solve = partial(
        minimise,
        partial(evaluate_rows, parts, targets, weights[order].astype(rows.dtype)),
        total=float(weights.sum(axis=0).mean()),
        folds=folds,
        targets=targets,
        preconditioner=preconditioner or Preconditioner(rows[fit]),
        tolerance=tolerance,
    )
    found: dict[float, np.ndarray] = {}

    @scipy_on_one_thread()
    def step(C: float) -> PathPoint:
        nearest = min(found, key=lambda other: abs(np.log(other / C)), default=None)
        zero = np.zeros((rows.shape[1] + 1, folds * targets.width))
        start = zero if nearest is None else found[nearest]
        found[C], objective, converged = solve(start=start, C=C)
        parts = zip(np.hsplit(found[C], folds), np.split(objective, folds), strict=True)
        return PathPoint.of(C, [(columns, own, converged) for columns, own in parts])

    return step


def _counting(weights: np.ndarray) -> np.ndarray:
    """Return which rows have a weight above 0 in any fold, bool of shape (n,)."""
    return np.asarray(weights.reshape(len(weights), -1).any(axis=1))


class Preconditioner:
    """Multiplies by powers of an approximate Hessian in which all rows have the same curvature.

    The rows' largest singular values are found by one step of subspace iteration (Halko, Martinsson
    and Tropp 2011, Finding Structure with Randomness, section 4.5).

    Parameters
    ----------
    rows : np.ndarray
        Shape (n, r): all rows, or a random sample.

    Attributes
    ----------
    most_rows : int
        Maximum number of rows that it uses.
    width : int
        Number of columns of the rows.
    """

    most_rows: ClassVar[int] = 8192

    def __init__(self, rows: np.ndarray) -> None:
        generator = np.random.default_rng(0)
        if len(rows) > self.most_rows:
            rows = rows[generator.permutation(len(rows))[: self.most_rows]]
        self.width = rows.shape[1]
        start = generator.standard_normal((self.width, min(_RANK, *rows.shape)))
        self._vectors = np.linalg.qr(rows.T @ (rows @ start.astype(rows.dtype)))[0]
        inside = (rows @ self._vectors).astype(np.float64)
        values, turned = np.linalg.eigh(inside.T @ inside / len(rows))
        self._values = np.maximum(values, 0)
        self._vectors = self._vectors @ turned.astype(rows.dtype)

    def multiply(self, columns: np.ndarray, curvature: float, power: float) -> np.ndarray:
        """Return the product with columns (r + 1, k), for a given total curvature of the rows.

        Parameters
        ----------
        columns : np.ndarray
            Shape (r + 1, k); the last row belongs to the intercept.
        curvature : float
            Total curvature of all rows, at least 0.
        power : float
            Power of the Hessian.

        Returns
        -------
        np.ndarray
            Shape (r + 1, k).
        """
        factors = (1 + curvature * self._values) ** power
        others = factors[0] if len(factors) else 1.0
        inside = self._vectors.T @ columns[:-1].astype(self._vectors.dtype)
        shares = (factors - others).astype(inside.dtype)[:, None] * inside
        product = np.empty_like(columns)
        product[:-1] = others * columns[:-1] + self._vectors @ shares
        product[-1] = curvature**power * columns[-1]
        return product


def minimise(
    evaluate: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    start: np.ndarray,
    C: float,
    total: float,
    *,
    folds: int = 1,
    targets: Targets,
    preconditioner: Preconditioner,
    tolerance: float,
) -> Minimum:
    """Return what L-BFGS-B finds from `start` on, for rows of a total weight.

    Its variables are P^(1/2) scale^(-1/2) columns, where P is the preconditioner and `scale` the
    objective at zero, by which its values are divided.

    Parameters
    ----------
    evaluate : callable
        Takes weights and intercepts (r + 1, f k), the intercepts last; returns the weighted losses,
        summed over the rows, (f, k) or (f, 1) for softmax, and their gradient (r + 1, f k).
    start : np.ndarray
        Weights and intercepts (r + 1, f k) to start from.
    C, total : float
        Inverse strength of the penalty, and sum of the sample weights of a fold.
    folds : int
        Number of folds f.
    targets, preconditioner, tolerance : Targets, Preconditioner, float
        As for `fit_path`.

    Returns
    -------
    Minimum
    """
    from scipy.optimize import minimize

    loss, curvature = targets.at_zero
    scale = C * total * loss * folds
    length = scale**0.5
    multiply = partial(preconditioner.multiply, curvature=C * total * curvature)
    lowest, values = start, np.array([np.inf])

    def scaled(variables: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal lowest, values
        columns = length * multiply(variables.reshape(start.shape), power=-0.5)
        losses, gradient = evaluate(columns)
        penalties = (columns[:-1] ** 2).sum(axis=0).reshape(losses.size, -1).sum(axis=1) / 2
        found = C * losses.ravel() + penalties
        if found.sum() < values.sum():
            lowest, values = columns, found
        derivative = C * gradient.astype(np.float64)
        derivative[:-1] += columns[:-1]
        derivative = multiply(derivative, power=-0.5).ravel()
        return _LARGE / scale * found.sum(), _LARGE / length * derivative

    first = multiply(start, power=0.5).ravel() / length
    options = {"ftol": _LAST_GAIN * tolerance, "gtol": 0, "maxiter": _STEPS, "maxfun": 2 * _STEPS}
    result = minimize(scaled, first, jac=True, method="L-BFGS-B", options=options)
    near = result.jac @ result.jac / 2 <= _NEAR * _LARGE * result.fun
    return lowest, values, bool(result.success or near)
