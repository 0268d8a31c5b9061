"""Problems on the same rows: one for each fold, or for each class of each fold."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from bottleneck.solvers.losses import Logistic, Loss, Softmax, SquaredHinge

__all__ = ["LOSSES", "PathPoint", "Problems", "inner", "penalty", "point_of", "pose", "settled"]

LOSSES = ("softmax", "logistic", "squared_hinge")


@dataclass(frozen=True)
class PathPoint:
    """The solutions for one `C`.

    Attributes
    ----------
    C : float
        Inverse strength of the penalty.
    weight : np.ndarray
        Shape (f, k, r): for each fold and class; one class stands for two.
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


@dataclass(frozen=True)
class Problems:
    """p problems on the same rows, each with k scores per row.

    Attributes
    ----------
    loss : Loss
        Of their scores.
    weights : torch.Tensor
        Shape (n, p).
    width : int
        k.
    """

    loss: Loss
    weights: torch.Tensor
    width: int

    @property
    def size(self) -> int:
        """How many there are."""
        return self.weights.shape[1]

    def nothing(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return room for the objectives and whether they converged, of shape (p, 1)."""
        room = self.weights.new_zeros(self.size, 1, dtype=torch.float64)
        return room, room.bool()

    def take(self, problems: torch.Tensor) -> "Problems":
        """Return some of them."""
        return replace(self, loss=self.loss.take(problems), weights=self.weights[:, problems])

    def times(self, grid: Sequence[float]) -> "Problems":
        """Return them for several C, one after the other."""
        return replace(
            self,
            loss=self.loss.take(torch.arange(self.size).repeat(len(grid))),
            weights=torch.cat([C * self.weights for C in grid], dim=1),
        )

    def losses(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the sums over the rows as float64 of shape (p,)."""
        return (self.weights * self.loss.value(scores)).double().sum(0)

    def objective(self, solution: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the objectives as float64 of shape (p,)."""
        return self.losses(scores) + penalty(solution)


def pose(labels: np.ndarray, counts: torch.Tensor, loss: str, classes: int) -> Problems:
    """Return a problem for each fold, or for each class of each fold.

    Parameters
    ----------
    labels : np.ndarray
        int of shape (n,), or bool of shape (n, k).
    counts : torch.Tensor
        Shape (n, f): what a row's loss counts in each fold; or (n, f, k), for each class.
    loss : str
        One of `LOSSES`.
    classes : int
        How many there are, whether or not these rows have all of them.
    """
    folds = counts.shape[1]
    given = torch.from_numpy(np.asarray(labels)).to(counts.device)
    if given.dim() == 1:
        if loss == "softmax" and classes > 2:  # noqa: PLR2004 - two classes have one score
            return Problems(Softmax(given.long()), counts, classes)
        first = 0 if classes > 2 else 1  # noqa: PLR2004
        given = given[:, None] == torch.arange(first, max(classes, 2), device=given.device)
    kind = SquaredHinge if loss == "squared_hinge" else Logistic
    signs = 2 * given.to(counts.dtype) - 1
    each = counts if counts.dim() > 2 else counts[..., None].expand(-1, -1, signs.shape[1])  # noqa: PLR2004
    return Problems(kind(signs.repeat(1, folds)[..., None]), each.flatten(1), 1)


def point_of(C: float, found: Sequence[torch.Tensor], folds: int) -> PathPoint:
    """Put problems of one fold together.

    Parameters
    ----------
    C : float
        Of all of them.
    found : sequence of torch.Tensor
        Solutions (r + 1, p, k), objectives (p, 1) and whether they converged (p, 1).
    folds : int
        How many there are.
    """
    solution, objective, converged = (each.cpu().numpy() for each in found)
    by_fold = solution.reshape(len(solution), folds, -1).transpose(1, 2, 0)
    return PathPoint(
        C=C,
        weight=by_fold[..., :-1],
        bias=by_fold[..., -1],
        objective=objective.reshape(folds, -1),
        converged=np.all(converged.reshape(folds, -1), axis=1),
    )


def penalty(solution: torch.Tensor) -> torch.Tensor:
    """Return half the squared norms of weights as float64 of shape (p,)."""
    return solution[:-1].double().square().sum((0, 2)) / 2


def settled(solution: torch.Tensor) -> torch.Tensor:
    """Return solutions whose intercepts sum to 0: the same for all classes changes no softmax."""
    if solution.shape[2] == 1:
        return solution
    intercepts = solution[-1:] - solution[-1:].mean(2, keepdim=True)
    return torch.cat([solution[:-1], intercepts])


def inner(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the inner product of each problem's own part, shape (p,)."""
    return (first * second).sum((0, 2))
