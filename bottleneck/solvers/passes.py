"""Passes over rows that do not fit into memory, each for all that can be asked of them at once."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from bottleneck.solvers.moments import gather_moments
from bottleneck.solvers.problems import Problems, penalty, pose
from bottleneck.solvers.rows import Preconditioner, SharedRows

__all__ = ["Batch", "Passes", "Place", "Progress", "Read"]

Read = Callable[[], Iterator[np.ndarray]]
"""Begins a pass and yields consecutive blocks of rows (m, d), float16 or float32."""
Progress = Callable[[int, int], None]
"""Takes the number of the pass, from 1 on, and how many of its rows are done."""

_PIECE_BYTES = 2**23
"""Of rows as float32 and their scores, that arithmetic finds in the processor's own memory."""
_SCORES = 12
"""Arrays of the scores' size, at a time."""


@dataclass(frozen=True)
class Batch:
    """Some of the problems, at some C.

    Attributes
    ----------
    which : torch.Tensor
        int64 of shape (p,): the number of each problem.
    C : torch.Tensor
        float32 of shape (p,).
    """

    which: torch.Tensor
    C: torch.Tensor

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self.which)

    def take(self, some: torch.Tensor) -> "Batch":
        """Return those at some indices, which may repeat."""
        return Batch(self.which[some], self.C[some])


@dataclass(frozen=True)
class Place:
    """Solutions of p problems, and what a pass finds there.

    Attributes
    ----------
    solution, gradient : torch.Tensor
        Shape (d + 1, p, k), on the fold's standardised features, the intercept last.
    value : torch.Tensor
        The objectives, float64 of shape (p,).
    curvature : torch.Tensor
        Shape (p, k): how much all rows together bend.
    """

    solution: torch.Tensor
    gradient: torch.Tensor
    value: torch.Tensor
    curvature: torch.Tensor

    def take(self, some: torch.Tensor) -> "Place":
        """Return those of some problems."""
        return Place(
            self.solution[:, some], self.gradient[:, some], self.value[some], self.curvature[some]
        )

    def put(self, some: torch.Tensor, other: "Place") -> None:
        """Replace those of some problems."""
        self.solution[:, some], self.gradient[:, some] = other.solution, other.gradient
        self.value[some], self.curvature[some] = other.value, other.curvature


class Passes:
    """Rows that can only be read from the first to the last.

    The next block is read while this one is computed with.

    Parameters
    ----------
    read : callable
        Begins a pass.
    labels, weights, loss
        As for `bottleneck.solvers.path.fit_path`.
    members : np.ndarray
        Shape (n, f): what each row counts for the moments of each fold.
    sample_bytes : int
        What the preconditioner's sample may take.
    standardize : bool
        Divide each feature by its deviation.
    progress : callable, optional
        Called after each block.

    Attributes
    ----------
    count : int
        Passes that were made: the first finds moments and makes the preconditioner.
    columns, problems, width : int
        How many columns the rows have, how many problems there are, and how many scores each of
        these has for a row.
    preconditioner : Preconditioner
        Made of a sample of the rows.
    """

    def __init__(
        self,
        read: Read,
        labels: np.ndarray,
        weights: np.ndarray,
        loss: str,
        *,
        members: np.ndarray,
        sample_bytes: int,
        standardize: bool,
        progress: Progress | None,
    ) -> None:
        self._read = read
        self._labels, self._weights, self._loss = labels, weights, loss
        self._progress = progress or (lambda *_: None)
        self._classes = int(labels.max()) + 1
        self.count = 0
        found = gather_moments(self._blocks(), members, sample_bytes, standardize=standardize)
        self._centre, self._scales, self._counts = found.centre, found.scale, found.counts
        self.preconditioner = Preconditioner(found.sample, found.total)
        nothing = self._pose(slice(0, 0))
        self.columns, self.problems, self.width = len(found.centre), nothing.size, nothing.width
        self._each = self.problems // weights.shape[1]

    def mean_curvature(self, batch: Batch, place: Place) -> torch.Tensor:
        """Return how much a row bends on average, of shape (p, k)."""
        return place.curvature / self._counts[batch.which // self._each, None]

    def unscale(self, batch: Batch, solution: torch.Tensor) -> torch.Tensor:
        """Return solutions (d + 1, p, k) on the features as they are."""
        raw = self._unscaled(batch, solution)
        shift = torch.tensordot(self._centre.double(), raw[:-1].double(), 1)
        raw[-1] -= shift.to(raw)
        return raw

    def visit(self, batch: Batch, solution: torch.Tensor) -> Place:
        """Return what one pass finds at solutions (d + 1, p, k)."""
        columns = self._unscaled(batch, solution)
        gradient, value = torch.zeros_like(solution), penalty(solution)
        curvature = solution.new_zeros(solution.shape[1:])
        for rows, problems in self._pieces(batch, columns):
            scores = rows.forward(columns)
            slope, state = problems.loss.slope(scores)
            weights = problems.weights[..., None]
            value += problems.losses(scores)
            gradient += rows.backward(weights * slope)
            curvature += (weights * problems.loss.bend_diagonal(state)).sum(0)
        curvature.clamp_(min=torch.finfo(curvature.dtype).tiny)
        return Place(solution, self._slope(batch, gradient, solution), value, curvature)

    def bend(self, batch: Batch, solution: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """Return the Hessians' products with directions (d + 1, p, k), from one pass."""
        both = torch.cat([solution, direction], dim=1)
        columns = self._unscaled(batch.take(torch.arange(batch.size).repeat(2)), both)
        product = torch.zeros_like(direction)
        for rows, problems in self._pieces(batch, columns):
            scores, change = rows.forward(columns).chunk(2, dim=1)
            _, state = problems.loss.slope(scores)
            product += rows.backward(
                problems.weights[..., None] * problems.loss.bend(state, change)
            )
        return self._slope(batch, product, direction)

    def _unscaled(self, batch: Batch, solution: torch.Tensor) -> torch.Tensor:
        """Return solutions on the features themselves, less their centre."""
        columns = solution.clone()
        columns[:-1] /= self._scale(batch)
        return columns

    def _slope(self, batch: Batch, product: torch.Tensor, solution: torch.Tensor) -> torch.Tensor:
        """Return what a sum over the rows is for solutions on standardised features, penalised."""
        product[:-1] /= self._scale(batch)
        product[:-1] += solution[:-1]
        return product

    def _scale(self, batch: Batch) -> torch.Tensor:
        return self._scales[:, batch.which // self._each, None]

    def _pieces(self, batch: Batch, columns: torch.Tensor) -> Iterator[tuple[SharedRows, Problems]]:
        """Yield some centred rows at a time, which the next ones overwrite, and their problems."""
        a_row = 4 * (self.columns + _SCORES * columns[0].numel())
        buffer = torch.empty(max(1, _PIECE_BYTES // a_row), self.columns)
        start = 0
        for block in self._blocks():
            for piece in torch.split(block, len(buffer)):
                values = buffer[: len(piece)].copy_(piece).sub_(self._centre)
                problems = self._pose(slice(start, start + len(piece))).take(batch.which)
                yield SharedRows(values), replace(problems, weights=problems.weights * batch.C)
                start += len(piece)

    def _pose(self, rows: slice) -> Problems:
        counts = torch.from_numpy(self._weights[rows].astype(np.float32))
        return pose(self._labels[rows], counts, self._loss, self._classes)

    def _blocks(self) -> Iterator[torch.Tensor]:
        """Make a pass."""
        self.count += 1
        done = 0
        for block in _ahead(self._read()):
            yield torch.from_numpy(np.require(block, requirements=["C", "W"]))
            done += len(block)
            self._progress(self.count, done)


def _ahead(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield what is asked for one ahead, in a thread."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = thread.submit(next, blocks, None)
            yield block
