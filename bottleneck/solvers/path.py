"""Many linear classifiers at once: all penalties, folds and classes in the same matrix products.

Minimised is, for each problem, what scikit-learn's `LogisticRegression` and `LinearSVC` minimise,

    C * sum_i c_i loss(y_i, w x_i + b) + |w|^2 / 2,

except that the intercept b is never penalised (`LinearSVC` does that). The method is Newton's with
inexact steps (Nocedal and Wright 2006, Numerical Optimization, section 7.1): conjugate gradients
find the step from products with the rows, which all problems share, and are preconditioned by the
rows' largest singular values (Frangella, Tropp and Udell 2023, Randomized Nyström Preconditioning).
For the squared hinge the Hessian is a generalised one (Keerthi and DeCoste 2005, A Modified Finite
Newton Method for Fast Solution of Large Scale Linear SVMs). A problem starts from the solution for
the next smaller C, and leaves the batch when it has converged.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch

from bottleneck.solvers.losses import Logistic, Softmax, SquaredHinge
from bottleneck.solvers.problems import LOSSES, PathPoint, Problems, inner, point_of, pose, settled
from bottleneck.solvers.rows import Preconditioner, SharedRows

__all__ = ["LOSSES", "PathPoint", "fit_path"]

_WIDTH = 64
"""Columns up to which a product takes hardly longer than with one: it reads the rows."""
_BATCH_BYTES = 2**29
_ARRAYS = 12
"""As large as the scores, at a time."""
_NEWTON_STEPS = 200
_GRADIENT_STEPS = 500
_HALVINGS = 30
_TIGHTEST = 1e-6
_LOOSEST = {Softmax: 0.25, Logistic: 0.25, SquaredHinge: 1e-2}
_TIGHTEN = 25
"""To which share the residual of a Newton step is brought: at first, and how much nearer later."""
_DESCENT = 1e-4
"""Share of the expected descent that a step has to bring (Armijo)."""


def fit_path(
    rows: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    grid: Sequence[float],
    loss: str,
    *,
    tolerance: float = 1e-7,
    device: str = "cpu",
) -> list[PathPoint]:
    """Fit a linear classifier for every `C` and every fold.

    Parameters
    ----------
    rows : np.ndarray
        Shape (n, r), float32 or float64, in which it is computed.
    labels : np.ndarray
        int of shape (n,) from 0 on; or bool of shape (n, k), each column a problem of its own.
    weights : np.ndarray
        Shape (n, f): what a row's loss counts in each fold, 0 where it is held out; or (n, f, k),
        for each class of labels of shape (n, k).
    grid : sequence of float
        Values of `C`, above 0.
    loss : str
        One of `LOSSES`. ``softmax`` is for labels of shape (n,); the others fit a classifier for
        each class against the rest. Two classes are one problem in any case.
    tolerance : float
        A problem has converged when its last step promised to gain less than this share of its
        objective: half the squared Newton decrement (Boyd and Vandenberghe 2004, Convex
        Optimization, section 9.5.1).
    device : str
        Where it is computed, as PyTorch names it.

    Returns
    -------
    list of PathPoint
        In the order of `grid`.
    """
    with torch.inference_mode():
        matrix = torch.from_numpy(np.ascontiguousarray(rows)).to(device)
        counts = torch.from_numpy(np.asarray(weights)).to(matrix)
        classes = int(labels.max()) + 1
        if not (fitted := counts.flatten(1).any(1)).all():
            matrix, counts = matrix[fitted], counts[fitted]
            labels = labels[fitted.cpu().numpy()]
        base = pose(labels, counts, loss, classes)
        found = {
            C: [matrix.new_empty(matrix.shape[1] + 1, base.size, base.width), *base.nothing()]
            for C in grid
        }
        solver = _Solver(matrix, tolerance)
        most = _BATCH_BYTES // (_ARRAYS * len(matrix) * base.width * matrix.element_size())
        for start in range(0, base.size, max(1, most)):
            some = torch.arange(base.size, device=matrix.device)[start : start + max(1, most)]
            for C, point in solver.path(base.take(some), sorted(set(grid)), most):
                if C in found:
                    for kept, own in zip(found[C], point, strict=True):
                        kept[..., some, :] = own
    folds = counts.shape[1]
    return [point_of(C, found[C], folds) for C in grid]


class _Solver:
    """Newton's method on problems that share their rows."""

    def __init__(self, rows: torch.Tensor, tolerance: float) -> None:
        self._rows = SharedRows(rows)
        self._preconditioner = Preconditioner(rows, len(rows))
        self._tolerance = tolerance

    def path(
        self, problems: Problems, grid: Sequence[float], most: int
    ) -> Iterator[tuple[float, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]:
        """Yield each C, ascending, with solutions, objectives and whether they converged.

        Several C are solved at a time where few problems would leave the products idle; `most`
        limits how many problems that may be. The squared hinge is solved for one C after the other,
        and for smaller ones first: far from its solution, its Newton steps say little.
        """
        stepwise = isinstance(problems.loss, SquaredHinge)
        at_once = max(1, min(_WIDTH // problems.width, most) // problems.size)
        if stepwise:
            at_once, grid = 1, self._from_afar(grid)
        size = problems.size
        last: tuple[float, torch.Tensor, torch.Tensor] | None = None
        for start in range(0, len(grid), at_once):
            some = grid[start : start + at_once]
            batch = problems.times(some)
            solution, scores = self._start(batch, some, last)
            solution, scores, *rest = self._newton(batch, solution, scores)
            last = some[-1], solution[:, -size:], scores[:, -size:]
            for place, C in enumerate(some):
                own = slice(place * size, (place + 1) * size)
                objective, converged = (each[own, None] for each in rest)
                yield C, (settled(solution[:, own]), objective, converged)

    def _from_afar(self, grid: Sequence[float]) -> list[float]:
        """Return a grid that begins where the penalty rules, and in which no step exceeds 10."""
        steps = list(grid)
        easy = 1 / max(self._preconditioner.largest, 1e-30)
        while steps[0] > 10 * easy:
            steps.insert(0, steps[0] / 10)
        finer = []
        for before, after in pairwise(steps):
            between = int(np.ceil(np.log10(after / before) - 1e-9))
            finer += [before * (after / before) ** (k / between) for k in range(between)]
        return [*finer, steps[-1]]

    def _start(
        self,
        batch: Problems,
        grid: Sequence[float],
        last: tuple[float, torch.Tensor, torch.Tensor] | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the best of some multiples of the last solution, and its scores."""
        if last is None:
            zeros = self._rows.matrix.new_zeros
            n_samples, n_columns = self._rows.matrix.shape
            shape = (batch.size, batch.width)
            return zeros(n_columns + 1, *shape), zeros(n_samples, *shape)
        before, solution, scores = last
        size = solution.shape[1]
        growth = torch.tensor([C / before for C in grid]).repeat_interleave(size).to(scores)
        solution, scores = solution.repeat(1, len(grid), 1), scores.repeat(1, len(grid), 1)
        multiples = [growth[:, None] ** power for power in (0, 0.5, 1)]
        tried = [batch.objective(each * solution, each * scores) for each in multiples]
        best = torch.stack(tried).argmin(0)
        multiple = torch.stack(multiples)[best, torch.arange(batch.size, device=best.device)]
        return multiple * solution, multiple * scores

    def _newton(
        self, batch: Problems, solution: torch.Tensor, scores: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return solutions, scores, objectives and whether they converged."""
        value = batch.objective(solution, scores)
        ended = [solution.clone(), scores.clone(), value.clone(), torch.zeros_like(value).bool()]
        loosest = _LOOSEST[type(batch.loss)]
        eta = torch.full_like(value, loosest)
        there = torch.arange(batch.size, device=value.device)
        noise = 4 * torch.finfo(scores.dtype).eps
        for _ in range(_NEWTON_STEPS):
            slope, state = batch.loss.slope(scores)
            gradient = self._rows.backward(batch.weights[..., None] * slope)
            gradient[:-1] += solution[:-1]
            step, change = self._step(batch, state, -gradient, eta.to(scores.dtype))
            descent = -inner(gradient, step).double()
            size = torch.ones_like(value)
            for _ in range(_HALVINGS):
                factor = size.to(scores.dtype)[:, None]
                tried = batch.objective(solution + factor * step, scores + factor * change)
                short = tried > value - _DESCENT * size * descent + noise * value
                if not short.any():
                    break
                size = torch.where(short, size / 2, size)
            solution, scores = solution + factor * step, scores + factor * change
            stuck = tried >= value
            value = tried
            converged = descent / 2 <= self._tolerance * value
            for kept, own in zip(ended, (solution, scores, value, converged), strict=True):
                kept[(slice(None), there) if kept.dim() > 1 else there] = own
            # Steps that had to be shortened were too inexact; the others may get so as they shrink.
            nearer = torch.minimum(eta, (descent / value).clamp(min=0).sqrt())
            nearer = nearer.clamp(min=loosest / _TIGHTEN)
            eta = torch.where(size < 1, (eta / 10).clamp(min=_TIGHTEST), nearer)
            left = ~(converged | (stuck & (eta <= _TIGHTEST)))
            if not left.any():
                break
            if not left.all():
                there, batch = there[left], batch.take(left)
                solution, scores = solution[:, left], scores[:, left]
                value, eta = value[left], eta[left]
        return ended[0], ended[1], ended[2], ended[3]

    def _step(
        self, batch: Problems, state: torch.Tensor, residual: torch.Tensor, eta: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Solve Hessian x = residual by conjugate gradients; return x and the scores it gives.

        A problem is done when the preconditioned residual has shrunk to `eta`, and those that are
        done leave when they are half of all.
        """
        curvature = (batch.weights[..., None] * batch.loss.bend_diagonal(state)).sum(0)
        curvature = curvature.clamp(min=torch.finfo(residual.dtype).tiny)
        mean = curvature / (batch.weights > 0).sum(0).clamp(min=1)[:, None]
        step, change = torch.zeros_like(residual), torch.zeros_like(state)
        ended, there = (step.clone(), change.clone()), torch.arange(batch.size, device=step.device)
        better = self._preconditioner(residual, mean, curvature)
        direction, power = better, inner(residual, better)
        goal, live = eta**2 * power, power > 0
        for _ in range(_GRADIENT_STEPS):
            scores = self._rows.forward(direction)
            product = self._rows.backward(batch.weights[..., None] * batch.loss.bend(state, scores))
            product[:-1] += direction[:-1]
            length = torch.where(live, power / inner(direction, product), 0)
            live &= length.isfinite()
            length = length.nan_to_num(0, 0, 0)[:, None]
            step, change = step + length * direction, change + length * scores
            residual = residual - length * product
            better = self._preconditioner(residual, mean, curvature)
            before, power = power, inner(residual, better)
            live &= power > goal
            if not live.any():
                break
            direction = better + (power / before)[:, None].nan_to_num(0, 0, 0) * direction
            if 2 * int(live.sum()) <= len(there):
                ended[0][:, there], ended[1][:, there] = step, change
                there, batch, state = there[live], batch.take(live), state[:, live]
                step, change, residual = step[:, live], change[:, live], residual[:, live]
                direction, power, goal = direction[:, live], power[live], goal[live]
                mean, curvature, live = mean[live], curvature[live], live[live]
        ended[0][:, there], ended[1][:, there] = step, change
        return ended
