"""Linear classifiers on features that do not fit into memory, trained in passes over their rows.

Minimised is what `bottleneck.solvers.path` minimises, by the same method: Newton's with inexact
steps, found by preconditioned conjugate gradients. Scores are not kept, as they would grow with the
rows, the classes and the problems: a pass computes them again from the solutions. One pass gives
the objectives and gradients of all problems of a batch, another one the products of their Hessians
with the directions of one step of conjugate gradients. Rows are not standardised for each fold: the
solutions are scaled instead. The preconditioner is made of a sample of rows, which the first pass
gathers with the mean and the deviations.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from bottleneck.solvers.passes import Batch, Passes, Place, Progress, Read
from bottleneck.solvers.problems import PathPoint, inner, point_of, settled

__all__ = ["stream_path"]

_MOST_BYTES = 2**28
_ARRAYS = 24
"""As large as the solutions, at a time."""
_WIDTH = 128
"""Columns up to which more of them are cheaper than more passes."""
_NEWTON_STEPS = 100
_GRADIENT_STEPS = 200
_LOOSEST, _TIGHTEST = 0.25, 1e-3
"""To which share the residual of a Newton step is brought: at first, and where that is too far."""
_SHARES = (0.5, 0.25, 0.125)
_SHORTEST = 1e-9
"""What one pass tries of a step that does not bring enough, and how short it may become."""
_DESCENT = 1e-4
"""Share of the expected descent that a step has to bring (Armijo)."""
_NOISE = 4 * float(np.finfo(np.float32).eps)
"""Of an objective."""


def stream_path(
    read: Read,
    labels: np.ndarray,
    weights: np.ndarray,
    grid: Sequence[float],
    loss: str,
    *,
    members: np.ndarray | None = None,
    standardize: bool = True,
    tolerance: float = 1e-5,
    most_bytes: int = _MOST_BYTES,
    progress: Progress | None = None,
) -> list[PathPoint]:
    """Fit a linear classifier for every `C` and every fold, in bounded memory.

    Parameters
    ----------
    read : callable
        Begins a pass and yields consecutive blocks of rows (m, d), float16 or float32, in the order
        of `labels`. It is asked for a block in another thread, while the one before is in use.
    labels, weights, grid, loss
        As for `bottleneck.solvers.path.fit_path`.
    members : np.ndarray, optional
        Shape (n, f): what each row counts for the mean and the deviation of each fold; by default
        rows of a weight above 0 count the same.
    standardize : bool
        Divide each feature by its deviation, as `bottleneck.solvers.reduce_rows` does. The mean is
        subtracted in any case.
    tolerance : float
        A problem has converged when its last step promised to gain less than this share of its
        objective: half the squared Newton decrement (Boyd and Vandenberghe 2004, Convex
        Optimization, section 9.5.1), as far as conjugate gradients have found it. What was found
        of it was gained, so the objective is then nearer to the least than that.
    most_bytes : int
        What is held besides the blocks, the labels, the weights and the result. It decides how
        many problems are solved at a time, of which there is one at least.
    progress : callable, optional
        Called after each block with the number of the pass and its rows that are done.

    Returns
    -------
    list of PathPoint
        In the order of `grid`; weights (f, k, d) and biases (f, k) are for the features as they
        are.
    """
    with torch.inference_mode():
        passes = Passes(
            read,
            labels,
            weights,
            loss,
            members=_fitted(weights) if members is None else members,
            sample_bytes=most_bytes // 3,
            standardize=standardize,
            progress=progress,
        )
        a_problem = _ARRAYS * 4 * (passes.columns + 1) * passes.width
        most = max(1, min(_WIDTH // passes.width, most_bytes // 2 // a_problem))
        ascending = sorted(set(grid))
        found = {C: _nothing(passes) for C in ascending}
        solver = _Solver(passes, tolerance)
        for start in range(0, passes.problems, most):
            some = torch.arange(start, min(start + most, passes.problems))
            for C, point in solver.path(some, ascending, most // len(some)):
                for kept, own in zip(found[C], point, strict=True):
                    kept[..., some, :] = own
    return [point_of(C, found[C], weights.shape[1]) for C in grid]


def _fitted(weights: np.ndarray) -> np.ndarray:
    """Return which rows count in each fold, bool of shape (n, f)."""
    return np.asarray((weights > 0).reshape(*weights.shape[:2], -1).any(axis=2))


def _nothing(passes: Passes) -> list[torch.Tensor]:
    """Return room for the solutions, the objectives and whether they converged."""
    solution = torch.empty(passes.columns + 1, passes.problems, passes.width)
    value = torch.empty(passes.problems, 1, dtype=torch.float64)
    return [solution, value, torch.empty(passes.problems, 1, dtype=torch.bool)]


class _Solver:
    """Newton's method where each product is a pass."""

    def __init__(self, passes: Passes, tolerance: float) -> None:
        self._passes = passes
        self._tolerance = tolerance

    def path(
        self, problems: torch.Tensor, grid: Sequence[float], at_once: int
    ) -> Iterator[tuple[float, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]:
        """Yield each C, ascending, with solutions, objectives and whether they converged.

        As many C are solved together as may be: passes cost more than columns.
        """
        size = len(problems)
        last: tuple[float, torch.Tensor] | None = None
        for start in range(0, len(grid), at_once):
            some = grid[start : start + at_once]
            batch = Batch(problems.repeat(len(some)), torch.tensor(some).repeat_interleave(size))
            solution, *rest = self._newton(batch, self._start(batch, last))
            last = some[-1], solution[:, -size:]
            raw = self._passes.unscale(batch, settled(solution))
            for number, C in enumerate(some):
                own = slice(number * size, (number + 1) * size)
                objective, converged = (each[own, None] for each in rest)
                yield C, (raw[:, own], objective, converged)

    def _start(self, batch: Batch, last: tuple[float, torch.Tensor] | None) -> Place:
        """Return the best of some multiples of the last solution."""
        if last is None:
            shape = self._passes.columns + 1, batch.size, self._passes.width
            return self._passes.visit(batch, torch.zeros(shape))
        before, solution = last
        solution = solution.repeat(1, batch.size // solution.shape[1], 1)
        growth = (batch.C / before)[:, None]
        return self._lowest(batch, [growth**power * solution for power in (0, 0.5, 1)])[0]

    def _lowest(
        self, batch: Batch, candidates: Sequence[torch.Tensor]
    ) -> tuple[Place, torch.Tensor]:
        """Return for each problem the best of its candidates, and which one it is."""
        alike = torch.arange(batch.size).repeat(len(candidates))
        found = self._passes.visit(batch.take(alike), torch.cat(list(candidates), dim=1))
        best = found.value.reshape(len(candidates), -1).argmin(0)
        return found.take(best * batch.size + torch.arange(batch.size)), best

    def _newton(
        self, batch: Batch, place: Place
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return solutions, objectives and whether they converged."""
        ended, value = torch.empty_like(place.solution), torch.empty_like(place.value)
        converged = torch.zeros(batch.size, dtype=torch.bool)
        there = torch.arange(batch.size)
        eta = torch.full((batch.size,), _LOOSEST)
        for _ in range(_NEWTON_STEPS):
            step, reached = self._step(batch, place, eta)
            descent = -inner(place.gradient, step).double()
            before = place.value
            place, size = self._search(batch, place, step, descent)
            near = reached & (descent / 2 <= self._tolerance * place.value)
            ended[:, there], value[there], converged[there] = place.solution, place.value, near
            # Steps that had to be shortened were too inexact.
            eta = torch.where(size < 1, eta / 10, _LOOSEST)
            stuck = (place.value >= before) & (eta < _TIGHTEST)
            left = (~near & ~stuck).nonzero()[:, 0]
            if not len(left):
                break
            there, batch, place, eta = there[left], batch.take(left), place.take(left), eta[left]
        return ended, value, converged

    def _search(
        self, batch: Batch, place: Place, step: torch.Tensor, descent: torch.Tensor
    ) -> tuple[Place, torch.Tensor]:
        """Return where steps lead that bring enough, and which share of each was gone."""
        found = self._passes.visit(batch, place.solution + step)
        size = torch.ones_like(descent)
        while True:
            enough = place.value - _DESCENT * size * descent + _NOISE * place.value
            short = (~(found.value <= enough) & (size > _SHORTEST)).nonzero()[:, 0]
            if not len(short):
                return found, size
            tried = [(share * size[short]).to(step)[:, None] for share in _SHARES]
            starts, steps = place.solution[:, short], step[:, short]
            lowest, which = self._lowest(batch.take(short), [starts + t * steps for t in tried])
            found.put(short, lowest)
            size[short] *= torch.tensor(_SHARES, dtype=size.dtype)[which]

    def _step(
        self, batch: Batch, place: Place, eta: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Solve Hessian x = -gradient by conjugate gradients; tell where they got there.

        A problem is done, and leaves, when the preconditioned residual has shrunk to `eta`.
        """
        ended, there = torch.zeros_like(place.solution), torch.arange(batch.size)
        mean, residual = self._passes.mean_curvature(batch, place), -place.gradient
        step, reached = torch.zeros_like(residual), torch.ones(batch.size, dtype=torch.bool)
        direction = self._passes.preconditioner(residual, mean, place.curvature)
        power = inner(residual, direction)
        goal = eta**2 * power
        for _ in range(_GRADIENT_STEPS):
            product = self._passes.bend(batch, place.solution, direction)
            length = power / inner(direction, product)
            usable = length.isfinite()
            length = torch.where(usable, length, 0)[:, None]
            step += length * direction
            residual -= length * product
            better = self._passes.preconditioner(residual, mean, place.curvature)
            before, power = power, inner(residual, better)
            direction = better + (power / before)[:, None] * direction
            ended[:, there] = step
            left = ((power > goal) & usable).nonzero()[:, 0]
            if not len(left):
                break
            if len(left) < len(there):
                there, batch, place = there[left], batch.take(left), place.take(left)
                step, residual, direction = step[:, left], residual[:, left], direction[:, left]
                power, goal, mean = power[left], goal[left], mean[left]
        else:
            reached[there] = False
        return ended, reached
