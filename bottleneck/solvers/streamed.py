"""Fit linear classifiers on features that do not fit into memory, in passes over the rows.

The objective and the solver are those of `bottleneck.solvers.path`, but as many folds and values
of C as fit into memory are solved side by side, so that one pass over the rows gives the objectives
and gradients of all. Instead of standardising rows for each fold, its weights are scaled. The
preconditioner is built from a sample of rows, which the first pass gathers together with the means
and standard deviations.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bottleneck.solvers.closed_form import Solution
from bottleneck.solvers.losses import Targets, evaluate_rows
from bottleneck.solvers.path import PathPoint, Preconditioner
from bottleneck.solvers.reduction import divisors
from bottleneck.solvers.together import follow_path

if TYPE_CHECKING:
    from sklearn.preprocessing import StandardScaler

__all__ = ["Read", "gather_moments", "pieces", "stream_path", "stream_scores"]

Read = Callable[[], Iterator[np.ndarray]]
"""Starts a pass and yields consecutive blocks of rows (m, d), float16 or float32."""

_ARRAYS = 32
"""Float64 arrays of a solution's size, per solution computed at a time."""
_PIECE_BYTES = 2**23
"""Bytes of float32 rows and their scores that fit into the processor's cache."""
_SCORES = 8
"""Arrays of the scores' size that exist at a time."""
_PIECE = 2**18
"""Elements whose moments are computed together, in float64."""
_SIGN_AND_MOVED = np.uint32(0x8FFFE000).view(np.int32)
_BIAS = np.float32(2.0**112)


def stream_path(
    read: Read,
    labels: np.ndarray,
    weights: np.ndarray,
    grid: Sequence[float],
    loss: str,
    *,
    members: np.ndarray | None = None,
    standardize: bool = True,
    widths: Sequence[int] = (),
    tolerance: float = 1e-6,
    most_bytes: int = 2**28,
) -> list[PathPoint]:
    """Fit a linear classifier for every `C` and every fold, in bounded memory.

    Parameters
    ----------
    read : callable
        Starts a pass and yields consecutive blocks of rows (m, d), float16 or float32, in the order
        of `labels`. The next block is read in another thread while one is in use.
    labels, weights, grid, loss
        As for `bottleneck.solvers.path.fit_path`.
    members : np.ndarray, optional
        Shape (n, f): the sample weights for each fold's mean and standard deviation; by default 1
        for rows of a weight above 0.
    standardize, widths
        As for `bottleneck.solvers.reduce_rows`. The mean is always subtracted.
    tolerance : float
        Approximate relative tolerance of the objective, as for `step_path`.
    most_bytes : int
        Memory limit, without the blocks, the labels, the weights and the result. It decides how
        many folds and values of `C` are solved side by side, at least one.

    Returns
    -------
    list of PathPoint
        In the order of `grid`; weights (f, k, d) and biases (f, k) apply to the raw features.
    """
    if members is None:
        members = np.asarray((weights > 0).reshape(*weights.shape[:2], -1).any(axis=2))
    found = gather_moments(_ahead(read()), members, most_bytes // 3, standardize=standardize)
    scalers, sample = found
    centre = np.mean([scaler.mean_ for scaler in scalers], axis=0)
    scales = np.ones((len(scalers), len(centre)))
    if standardize:
        scales = np.stack([divisors(s.mean_, np.sqrt(s.var_), widths) for s in scalers])
    sample -= centre.astype(np.float32)
    sample /= np.mean(scales, axis=0).astype(np.float32)
    targets = Targets.of(labels, loss)

    def evaluate(folds: list[int], columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        divisors = np.repeat(scales[folds], targets.width, axis=0).T
        scaled = np.vstack([columns[:-1] / divisors, columns[-1:]]).astype(np.float32)
        losses, gradient = np.zeros(()), np.zeros_like(columns)
        for rows, values in pieces(read, centre, columns.shape[1]):
            own = weights[rows, folds].astype(np.float32)
            loss, own_gradient = evaluate_rows([values], targets.take(rows), own, scaled)
            losses = losses + loss
            gradient += own_gradient
        gradient[:-1] /= divisors
        return losses, gradient

    points = follow_path(
        evaluate,
        grid,
        weights,
        targets=targets,
        preconditioner=Preconditioner(sample),
        tolerance=tolerance,
        at_once=most_bytes // (16 * _ARRAYS * (len(centre) + 1) * targets.width),
    )
    raw = [point.weight / scales[:, None] for point in points]
    return [
        replace(point, weight=weight, bias=point.bias - weight @ centre)
        for point, weight in zip(points, raw, strict=True)
    ]


def stream_scores(
    read: Read,
    held: Sequence[np.ndarray],
    solutions: Sequence[Sequence[Solution]],
    most_bytes: int,
) -> Iterator[list[np.ndarray]]:
    """Yield the scores of each fold's held-out rows by the solutions for each `C`.

    Each pass computes scores for as many values of `C` as fit a quarter of the memory.

    Parameters
    ----------
    read : callable
        As for `stream_path`.
    held : sequence of np.ndarray
        For each of f folds, bool of shape (n,): the rows to score.
    solutions : sequence of sequence of Solution
        For each `C`, the solution of each fold.
    most_bytes : int
        Memory limit.

    Yields
    ------
    list of np.ndarray
        For each fold, scores of shape (m, k).
    """
    n_scores = sum(int(rows.sum()) for rows in held) * len(solutions[0][0][1])
    at_once = max(1, most_bytes // (16 * n_scores))
    for first in range(0, len(solutions), at_once):
        some = solutions[first : first + at_once]
        found: list[list[list[np.ndarray]]] = [[[] for _ in held] for _ in some]
        start = 0
        for block in read():
            for number, rows in enumerate(held):
                own_rows = block[rows[start : start + len(block)]].astype(np.float32)
                for own, solved in zip(found, some, strict=True):
                    weight, bias, _ = solved[number]
                    own[number].append(own_rows @ weight.T + bias)
            start += len(block)
        yield from ([np.concatenate(each) for each in own] for own in found)


def gather_moments(
    blocks: Iterator[np.ndarray], members: np.ndarray, sample_bytes: int, *, standardize: bool
) -> tuple[list["StandardScaler"], np.ndarray]:
    """Return the moments of each fold, and a random sample of rows (m, d), from one pass.

    Parameters
    ----------
    blocks : iterator of np.ndarray
        Consecutive rows (m, d) of any float type.
    members : np.ndarray
        Shape (n, f): the sample weight of each row in each fold, 0 where it is held out.
    sample_bytes : int
        Memory limit of the sample as float32; it has at least one row.
    standardize : bool
        Whether variances are needed, too.

    Returns
    -------
    scalers : list of StandardScaler
        Means and variances of each of the f folds.
    sample : np.ndarray
        The sample, float32 of shape (m, d).
    """
    from sklearn.preprocessing import StandardScaler

    scalers = [StandardScaler(with_std=standardize) for _ in members.T]
    known = np.random.default_rng(0).permutation(np.flatnonzero(members.any(axis=1)))
    sample, start = np.empty((0, 0), np.float32), 0
    for block in blocks:
        most = min(Preconditioner.most_rows, sample_bytes // (4 * block.shape[1]))
        chosen = np.sort(known[: max(1, most)])
        if not len(sample):
            sample = np.empty((len(chosen), block.shape[1]), np.float32)
        first, last = np.searchsorted(chosen, [start, start + len(block)])
        sample[first:last] = block[chosen[first:last] - start]
        rows = max(1, _PIECE // block.shape[1])
        for piece in np.split(block, range(rows, len(block), rows)):
            values = piece.astype(np.float64)
            for scaler, own in zip(scalers, members[start : start + len(piece)].T, strict=True):
                if own.any():
                    scaler.partial_fit(values, sample_weight=own)
            start += len(piece)
    return scalers, sample


def pieces(read: Read, centre: np.ndarray, width: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield blocks of centred rows, in an array that is reused for the next block.

    Parameters
    ----------
    read : callable
        As for `stream_path`.
    centre : np.ndarray
        Shape (d,): subtracted from each row.
    width : int
        Number of scores that are computed for each row; more of them make smaller blocks.

    Yields
    ------
    rows : slice
        Where the block is among all rows.
    values : np.ndarray
        float32 of shape (m, d), which may be changed.
    """
    size = max(1, _PIECE_BYTES // (4 * (len(centre) + _SCORES * width)))
    buffer, centre = np.empty((size, len(centre)), np.float32), centre.astype(np.float32)
    start = 0
    for block in _ahead(read()):
        for piece in np.split(block, range(size, len(block), size)):
            values = buffer[: len(piece)]
            _copy(piece, values)
            values -= centre
            yield slice(start, start + len(piece)), values
            start += len(piece)


def _copy(piece: np.ndarray, values: np.ndarray) -> None:
    """Copy float16 or float32 to float32; NumPy alone takes nine times as long for float16.

    The bits of the exponent and the mantissa move to where float32 has them, and the product
    corrects the exponent's bias, also of subnormal numbers. There is no inf or nan.
    """
    if piece.dtype != np.float16:
        np.copyto(values, piece)
        return
    bits = values.view(np.int32)
    np.copyto(bits, piece.view(np.int16))
    bits <<= 13
    bits &= _SIGN_AND_MOVED
    values *= _BIAS


def _ahead(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield blocks of rows, reading the next one while one is in use."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = thread.submit(next, blocks, None)
            yield block
