"""Follow the path of C for several folds side by side, where one pass over the rows serves all."""

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np

from bottleneck.solvers.losses import Targets
from bottleneck.solvers.path import Minimum, PathPoint, Preconditioner, minimise
from bottleneck.solvers.threads import scipy_on_one_thread

__all__ = ["follow_path"]

Evaluate = Callable[[list[int], np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Takes the folds of p problems, and their weights and intercepts (r + 1, p k), the intercepts
last; returns the weighted losses, summed over the rows, (p, k) or (p, 1) for softmax, and their
gradient (r + 1, p k)."""


def follow_path(
    evaluate: Evaluate,
    grid: Sequence[float],
    weights: np.ndarray,
    *,
    targets: Targets,
    preconditioner: Preconditioner,
    tolerance: float,
    at_once: int,
) -> list[PathPoint]:
    """Return the solutions for every `C` and every fold.

    As many problems are solved side by side as `at_once` allows: all folds, for one or more `C`.
    Each starts from its fold's solution for the largest `C` that has been solved.

    Parameters
    ----------
    evaluate : Evaluate
        Computes losses and gradients.
    grid, weights
        As for `bottleneck.solvers.path.fit_path`.
    tolerance : float
        As for `bottleneck.solvers.path.step_path`.
    targets : Targets
        Targets; their width is k.
    preconditioner : Preconditioner
        Built from all rows, or from a sample.
    at_once : int
        Number of problems that are evaluated together.

    Returns
    -------
    list of PathPoint
        In the order of `grid`.
    """
    totals = weights.sum(axis=0).reshape(weights.shape[1], -1).mean(axis=1)
    solve = partial(minimise, targets=targets, preconditioner=preconditioner, tolerance=tolerance)
    found: dict[float, list[Minimum]] = {C: [] for C in sorted(set(grid))}
    first = np.zeros((preconditioner.width + 1, targets.width))
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
    return [PathPoint.of(C, found[C]) for C in grid]


def _batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    size = max(1, size)
    return [items[start : start + size] for start in range(0, len(items), size)]


@scipy_on_one_thread()
def _side_by_side(
    evaluate: Evaluate, tasks: Sequence[Callable[..., Minimum]], folds: list[int]
) -> list[Minimum]:
    """Run the minimisers of some folds, and evaluate together what they ask for.

    Each has a thread, as SciPy's can't be paused otherwise, but only one thread runs at a time.
    """
    if len(tasks) == 1:
        return [tasks[0](partial(evaluate, folds))]
    asked: SimpleQueue[np.ndarray | None] = SimpleQueue()
    answers: list[SimpleQueue[Any]] = [SimpleQueue() for _ in tasks]
    running: list[Future[Minimum]] = []
    waiting: dict[int, np.ndarray] = {}

    def run(number: int) -> Minimum:
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
