"""Fit linear classifiers on features that are read in blocks."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bottleneck.heads.problem import Fold, Problem

if TYPE_CHECKING:
    from bottleneck.features import StreamedRows
    from bottleneck.solvers.path import PathPoint

__all__ = ["Pair", "pairs_of", "stream", "stream_scores"]

Pair = tuple[np.ndarray, np.ndarray]
"""Weight (k, d) and bias (k,), also for two classes."""


def pairs_of(point: "PathPoint", codes: np.ndarray, loss: str) -> list[Pair]:
    """Return each fold's solution, with two scores also for binary problems.

    Parameters
    ----------
    point : PathPoint
        Solutions for f folds.
    codes : np.ndarray
        Classes of the rows: int of shape (n,), or bool of shape (n, k).
    loss : str
        ``softmax``, ``logistic`` or ``squared_hinge``.

    Returns
    -------
    list of (np.ndarray, np.ndarray)
        f pairs of weight (k, d) and bias (k,), also for two classes.
    """
    pairs = list(zip(point.weight, point.bias, strict=True))
    if codes.ndim > 1 or point.weight.shape[1] > 1:
        return pairs
    # The softmax of (-s / 2, s / 2) is the sigmoid of s.
    half = np.array([-0.5, 0.5] if loss == "softmax" else [-1.0, 1.0])
    return [(half[:, None] * weight, half * bias) for weight, bias in pairs]


def stream(
    problem: Problem, X: "StreamedRows", loss: str, fit: np.ndarray, grid: Sequence[float]
) -> list[tuple[list[Pair], bool]]:
    """Fit on every fold for every `C`, in passes over streamed features.

    Parameters
    ----------
    problem : Problem
        n rows.
    X : StreamedRows
        Its features.
    loss : str
        One of `bottleneck.solvers.losses.LOSSES`.
    fit : np.ndarray
        bool of shape (n, f): the rows of each fold.
    grid : sequence of float
        Values of `C`.

    Returns
    -------
    list of (list of (np.ndarray, np.ndarray), bool)
        For each `C`, the solutions of all folds on raw features, and whether all converged.
    """
    from bottleneck.solvers.streamed import stream_path

    codes = problem.targets.codes
    points = stream_path(
        X.blocks,
        codes,
        problem.counts(fit),
        grid,
        loss,
        members=fit * problem.weights[:, None],
        standardize=problem.standardize,
        most_bytes=X.memory // 2,
    )
    return [(pairs_of(point, codes, loss), bool(point.converged.all())) for point in points]


def stream_scores(
    problem: Problem, X: "StreamedRows", loss: str, folds: Sequence[Fold], grid: Sequence[float]
) -> Iterator[list[np.ndarray]]:
    """Yield for each `C` the scores (m, k) of each fold's held-out rows.

    Each pass computes scores for as many values of `C` as fit a quarter of the memory.

    Parameters
    ----------
    problem : Problem
        n rows.
    X : StreamedRows
        Features of the n rows, shape (n, d).
    loss : str
        ``softmax``, ``logistic`` or ``squared_hinge``.
    folds : sequence of Fold
        Rows to fit on and rows held out.
    grid : sequence of float
        Values of `C`, above 0.

    Yields
    ------
    list of np.ndarray
        For each fold, scores of shape (m, k).

    Raises
    ------
    CacheError
        The cache lacks rows, or a part is damaged.
    """
    fit = np.stack([fold.fit for fold in folds], axis=1)
    solutions = [pairs for pairs, _ in stream(problem, X, loss, fit, grid)]
    n_held = sum(int(fold.held.sum()) for fold in folds)
    at_once = max(1, X.memory // (16 * n_held * len(problem.targets.classes)))
    for start in range(0, len(solutions), at_once):
        yield from _scores(X, folds, solutions[start : start + at_once])


def _scores(
    X: "StreamedRows", folds: Sequence[Fold], solutions: Sequence[Sequence[Pair]]
) -> Iterator[list[np.ndarray]]:
    found: list[list[list[np.ndarray]]] = [[[] for _ in folds] for _ in solutions]
    start = 0
    for block in X.blocks():
        for number, fold in enumerate(folds):
            rows = block[fold.held[start : start + len(block)]].astype(np.float32)
            for own, pairs in zip(found, solutions, strict=True):
                weight, bias = pairs[number]
                own[number].append(rows @ weight.T + bias)
        start += len(block)
    for own in found:
        yield [np.concatenate(each) for each in own]
