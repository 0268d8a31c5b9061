"""Means, deviations and a sample of rows, from one pass over them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from bottleneck.solvers.rows import SAMPLE

__all__ = ["Moments", "gather_moments"]

_PIECE = 2**18
"""Numbers that are taken together, in float64."""


@dataclass(frozen=True)
class Moments:
    """What one pass over the rows finds.

    Attributes
    ----------
    centre : torch.Tensor
        float32 of shape (d,): the mean of the folds' means.
    scale : torch.Tensor
        float32 of shape (d, f): what each fold's features are divided by.
    counts : torch.Tensor
        float32 of shape (f,): how many rows each fold is fitted on, at least 1.
    sample : torch.Tensor
        float32 of shape (m, d): rows chosen at random, less the centre, divided by the mean scale.
    total : int
        How many rows are fitted on in any fold; the sample is of these.
    """

    centre: torch.Tensor
    scale: torch.Tensor
    counts: torch.Tensor
    sample: torch.Tensor
    total: int


def gather_moments(
    blocks: Iterable[torch.Tensor], counts: np.ndarray, sample_bytes: int, *, standardize: bool
) -> Moments:
    """Find what `reduce_rows` would for each fold, to rounding.

    Each piece's moments are taken about its own mean and merged with those before (Chan, Golub and
    LeVeque 1983, Algorithms for Computing the Sample Variance), in float64.

    Parameters
    ----------
    blocks : iterable of torch.Tensor
        Consecutive rows (m, d) of any float type.
    counts : np.ndarray
        Shape (n, f): what each row counts in each fold, 0 where it is held out.
    sample_bytes : int
        What the sample may take; it has one row at least, and `SAMPLE` at most.
    standardize : bool
        Divide each feature by its deviation.
    """
    known = np.flatnonzero(counts.any(axis=1))
    chosen, sample = np.empty(0, dtype=np.intp), torch.empty(0, 0)
    folds: list[_Running] = []
    start = 0
    for block in blocks:
        width = block.shape[1]
        if not folds:
            folds = [_Running(width) for _ in range(counts.shape[1])]
            chosen = _choose(known, min(SAMPLE, sample_bytes // (4 * width)))
            sample = torch.empty(len(chosen), width)
        first, last = np.searchsorted(chosen, [start, start + len(block)])
        sample[first:last] = block[torch.from_numpy(chosen[first:last] - start)]
        for piece in torch.split(block, max(1, _PIECE // width)):
            values = piece.double()
            members = torch.from_numpy(counts[start : start + len(piece)].astype(np.float64))
            for fold, own in zip(folds, members.T, strict=True):
                fold.add(values, own)
            start += len(piece)
    centre = torch.stack([fold.mean for fold in folds]).mean(0).float()
    scale = torch.stack([fold.scale() for fold in folds], dim=1).float()
    if not standardize:
        scale = torch.ones_like(scale)
    sample.sub_(centre).div_(scale.mean(1))
    fitted = torch.from_numpy(np.maximum(1, (counts > 0).sum(axis=0))).float()
    return Moments(centre, scale, fitted, sample, len(known))


def _choose(known: np.ndarray, count: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    return np.sort(generator.permutation(known)[: max(1, count)])


class _Running:
    """What the rows so far count, their mean, and the sum of their squared deviations."""

    def __init__(self, width: int) -> None:
        self._count = 0.0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self._squares = torch.zeros(width, dtype=torch.float64)

    def add(self, rows: torch.Tensor, counts: torch.Tensor) -> None:
        own = counts > 0
        if not own.all():
            rows, counts = rows[own], counts[own]
        if not len(rows):
            return
        count = float(counts.sum())
        mean = counts @ rows / count
        apart = mean - self.mean
        before, self._count = self._count, self._count + count
        self.mean += apart * (count / self._count)
        self._squares += counts @ (rows - mean).square_()
        self._squares += apart**2 * (count * before / self._count)

    def scale(self) -> torch.Tensor:
        """Return the deviations, 1 for what rounding leaves of a constant column's."""
        deviation = (self._squares / (self._count or 1)).sqrt()
        noise = 10 * torch.finfo(torch.float64).eps * self.mean.abs()
        return torch.where(deviation <= noise, 1, deviation)
