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
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from bottleneck.solvers.losses import Targets, evaluate_rows
from bottleneck.solvers.path import PathPoint, Preconditioner, follow_path

if TYPE_CHECKING:
    from sklearn.preprocessing import StandardScaler

__all__ = ["Progress", "Read", "gather_moments", "stream_path"]

Read = Callable[[], Iterator[np.ndarray]]
"""Starts a pass and yields consecutive blocks of rows (m, d), float16 or float32."""
Progress = Callable[[int, int], None]
"""Takes the number of the pass, from 1 on, and the number of its rows done."""

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
    tolerance: float = 1e-6,
    most_bytes: int = 2**28,
    progress: Progress | None = None,
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
    standardize : bool
        Divide each feature by its standard deviation, as `bottleneck.solvers.reduce_rows` does. The
        mean is always subtracted.
    tolerance : float
        Approximate relative tolerance of the objective, as for `fit_path`.
    most_bytes : int
        Memory limit, without the blocks, the labels, the weights and the result. It decides how
        many folds and values of `C` are solved side by side, at least one.
    progress : callable, optional
        Called after each block with the number of the pass and the number of its rows done.

    Returns
    -------
    list of PathPoint
        In the order of `grid`; weights (f, k, d) and biases (f, k) apply to the raw features.
    """
    if members is None:
        members = np.asarray((weights > 0).reshape(*weights.shape[:2], -1).any(axis=2))
    blocks = partial(_pass, read, count(1), progress or (lambda *_: None))
    scalers, sample = gather_moments(blocks(), members, most_bytes // 3, standardize=standardize)
    targets = Targets.of(labels, loss)
    rows = _Rows(blocks, targets, weights, scalers)
    rows.standardise(sample)
    preconditioner = Preconditioner(sample)

    a_fold = 8 * _ARRAYS * (preconditioner.width + 1) * targets.width
    at_once = max(1, most_bytes // 2 // a_fold)
    points = follow_path(
        rows.evaluate,
        grid,
        weights,
        targets=targets,
        preconditioner=preconditioner,
        tolerance=tolerance,
        at_once=at_once,
    )
    return [rows.unscaled(point) for point in points]


def gather_moments(
    blocks: Iterator[np.ndarray], members: np.ndarray, sample_bytes: int, *, standardize: bool
) -> tuple[list["StandardScaler"], np.ndarray]:
    """Return means and scales of each fold, and a random sample of rows (m, d), from one pass.

    Parameters
    ----------
    blocks : iterator of np.ndarray
        Consecutive rows (m, d) of any float type.
    members : np.ndarray
        Shape (n, f): the sample weight of each row in each fold, 0 where it is held out.
    sample_bytes : int
        Memory limit of the sample as float32; it has at least one row.
    standardize : bool
        Divide each feature by its standard deviation.

    Returns
    -------
    scalers : list of StandardScaler
        Means and scales of each of the f folds.
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


class _Rows:
    """The losses of folds on rows that can only be read in order."""

    def __init__(
        self,
        blocks: Callable[[], Iterator[np.ndarray]],
        targets: Targets,
        weights: np.ndarray,
        scalers: Sequence["StandardScaler"],
    ) -> None:
        self._blocks, self._targets, self._weights = blocks, targets, weights
        self._centre = np.mean([scaler.mean_ for scaler in scalers], axis=0)
        ones = np.ones_like(self._centre)
        self._scales = np.stack([ones if s.scale_ is None else s.scale_ for s in scalers])

    def standardise(self, rows: np.ndarray) -> None:
        """Subtract the centre from float32 rows, and divide them by the mean scale."""
        rows -= self._centre.astype(np.float32)
        rows /= np.mean(self._scales, axis=0).astype(np.float32)

    def unscaled(self, point: PathPoint) -> PathPoint:
        """Return the solutions for raw features."""
        weight = point.weight / self._scales[:, None]
        return replace(point, weight=weight, bias=point.bias - weight @ self._centre)

    def evaluate(self, folds: list[int], columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Make a pass for the losses and gradients of some folds."""
        scales = np.repeat(self._scales[folds], self._targets.width, axis=0).T
        own = np.vstack([columns[:-1] / scales, columns[-1:]]).astype(np.float32)
        losses, gradient = np.zeros(()), np.zeros_like(columns)
        for rows, values in self._pieces(columns.shape[1]):
            weights = self._weights[rows, folds].astype(np.float32)
            loss, slopes = evaluate_rows(values, self._targets.take(rows), weights, own)
            losses = losses + loss
            gradient += slopes
        gradient[:-1] /= scales
        return losses, gradient

    def _pieces(self, width: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield blocks of centred rows, in an array that is reused for the next block."""
        n_features = len(self._centre)
        size = max(1, _PIECE_BYTES // (4 * (n_features + _SCORES * width)))
        buffer, centre = np.empty((size, n_features), np.float32), self._centre.astype(np.float32)
        start = 0
        for block in self._blocks():
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


def _pass(read: Read, numbers: Iterator[int], progress: Progress) -> Iterator[np.ndarray]:
    """Yield blocks of rows, reading the next one while one is in use."""
    number, done, blocks = next(numbers), 0, read()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = thread.submit(next, blocks, None)
            yield block
            done += len(block)
            progress(number, done)
