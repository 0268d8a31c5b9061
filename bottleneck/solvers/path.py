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
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from queue import SimpleQueue
from typing import Any, ClassVar

import numpy as np

from bottleneck.solvers.losses import Targets, evaluate_rows
from bottleneck.solvers.threads import scipy_on_one_thread

__all__ = ["PathPoint", "Preconditioner", "fit_path", "follow_path"]

Evaluate = Callable[[list[int], np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Takes the folds of p problems, and their weights and intercepts (r + 1, p k), the intercepts
last; returns the weighted losses, summed over the rows, (p, k) or (p, 1) for softmax, and their
gradient (r + 1, p k)."""
_Minimum = tuple[np.ndarray, np.ndarray, bool]
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
    tolerance : float
        Approximate relative tolerance of the objective: the solver stops when a step gains less
        than a tenth of it, or when rounding errors hide the gain. By default 1e-7 for float32, and
        1e-12 for float64.

    Returns
    -------
    list of PathPoint
        In the order of `grid`.
    """
    if tolerance is None:
        tolerance = 1e-7 if rows.dtype == np.float32 else 1e-12
    targets = Targets.of(labels, loss)

    @lru_cache(1)
    def fitted(fold: int) -> tuple[np.ndarray, Targets, np.ndarray]:
        own = weights[:, [fold]]
        fit = _counting(own)
        return rows[fit], targets.take(fit), own[fit].astype(rows.dtype)

    return follow_path(
        lambda folds, columns: evaluate_rows(*fitted(*folds), columns),
        grid,
        weights,
        targets=targets,
        preconditioner=Preconditioner(rows[_counting(weights)]),
        tolerance=tolerance,
    )


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


def follow_path(
    evaluate: Evaluate,
    grid: Sequence[float],
    weights: np.ndarray,
    *,
    targets: Targets,
    preconditioner: Preconditioner,
    tolerance: float,
    at_once: int = 1,
    start: np.ndarray | None = None,
) -> list[PathPoint]:
    """Return the solutions for every `C` and every fold.

    As many problems are solved side by side as `at_once` allows: all folds, for one or more `C`.
    Each starts from its fold's solution for the largest `C` that has been solved.

    Parameters
    ----------
    evaluate : Evaluate
        Computes losses and gradients.
    grid, weights, tolerance
        As for `fit_path`.
    targets : Targets
        Targets; their width is k.
    preconditioner : Preconditioner
        Built from all rows, or from a sample.
    at_once : int
        Number of problems that are evaluated together.
    start : np.ndarray, optional
        Weights and intercepts (r + 1, k) to start from; zeros by default.

    Returns
    -------
    list of PathPoint
        In the order of `grid`.
    """
    totals = weights.sum(axis=0).reshape(weights.shape[1], -1).mean(axis=1)
    solve = partial(_minimise, targets=targets, preconditioner=preconditioner, tolerance=tolerance)
    found: dict[float, list[_Minimum]] = {C: [] for C in sorted(set(grid))}
    first = np.zeros((preconditioner.width + 1, targets.width)) if start is None else start
    for folds in _batches(range(len(totals)), at_once):
        last = [first] * len(folds)
        for some in _batches(list(found), at_once // len(folds)):
            tasks = [
                partial(solve, start=start, C=C, total=totals[fold])
                for C in some
                for fold, start in zip(folds, last, strict=True)
            ]
            solved = _side_by_side(evaluate, tasks, [*folds] * len(some))
            last = [solution for solution, _, _ in solved[-len(folds) :]]
            for number, each in enumerate(solved):
                found[some[number // len(folds)]].append(each)
    points = []
    for C in grid:
        columns, objective, converged = map(np.stack, zip(*found[C], strict=True))
        weight, bias = columns[:, :-1].swapaxes(1, 2), columns[:, -1]
        points.append(PathPoint(C, weight, bias, objective, converged))
    return points


def _batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    size = max(1, size)
    return [items[start : start + size] for start in range(0, len(items), size)]


@scipy_on_one_thread()
def _side_by_side(
    evaluate: Evaluate, tasks: Sequence[Callable[..., _Minimum]], folds: list[int]
) -> list[_Minimum]:
    """Run the minimisers of some folds, and evaluate together what they ask for.

    Each has a thread, as SciPy's can't be paused otherwise, but only one thread runs at a time.
    """
    if len(tasks) == 1:
        return [tasks[0](partial(evaluate, folds))]
    asked: SimpleQueue[np.ndarray | None] = SimpleQueue()
    answers: list[SimpleQueue[Any]] = [SimpleQueue() for _ in tasks]
    running: list[Future[_Minimum]] = []
    waiting: dict[int, np.ndarray] = {}

    def run(number: int) -> _Minimum:
        try:
            return tasks[number](partial(_ask, asked, answers[number]))
        finally:
            asked.put(None)

    def wait_for(number: int) -> None:
        if (columns := asked.get()) is None:
            running[number].result()  # raises what ended it
        else:
            waiting[number] = columns

    with ThreadPoolExecutor(len(tasks)) as threads:
        try:
            for number in range(len(tasks)):
                running.append(threads.submit(run, number))
                wait_for(number)
            while waiting:
                own, columns = zip(*waiting.items(), strict=True)
                losses, gradient = evaluate([folds[each] for each in own], np.hstack(columns))
                waiting.clear()
                for number, *each in zip(own, losses, np.hsplit(gradient, len(own)), strict=True):
                    answers[number].put(each)
                    wait_for(number)
        finally:
            for answer in answers:
                answer.put(None)  # ends the threads, if an error or a signal ends this one
    return [each.result() for each in running]


def _ask(asked: SimpleQueue[Any], answers: SimpleQueue[Any], columns: np.ndarray) -> Any:
    """Ask the main thread for losses and gradient, and wait for them; None ends the thread."""
    asked.put(columns)
    if (answer := answers.get()) is None:
        raise CancelledError
    return answer


def _minimise(
    evaluate: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    start: np.ndarray,
    C: float,
    total: float,
    *,
    targets: Targets,
    preconditioner: Preconditioner,
    tolerance: float,
) -> _Minimum:
    """Return what L-BFGS-B finds from `start` on, for rows of a total weight.

    Its variables are P^(1/2) scale^(-1/2) columns, where P is the preconditioner and `scale` the
    objective at zero, by which its values are divided.
    """
    from scipy.optimize import minimize

    loss, curvature = targets.at_zero
    scale, length = C * total * loss, (C * total * loss) ** 0.5
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
        slopes = C * gradient.astype(np.float64)
        slopes[:-1] += columns[:-1]
        slopes = multiply(slopes, power=-0.5).ravel()
        return _LARGE / scale * found.sum(), _LARGE / length * slopes

    first = multiply(start, power=0.5).ravel() / length
    options = {"ftol": _LAST_GAIN * tolerance, "gtol": 0, "maxiter": _STEPS, "maxfun": 2 * _STEPS}
    result = minimize(scaled, first, jac=True, method="L-BFGS-B", options=options)
    near = result.jac @ result.jac / 2 <= _NEAR * _LARGE * result.fun
    return lowest, values, bool(result.success or near)
