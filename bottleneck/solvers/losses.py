"""Losses of linear classifiers, for many problems at once.

Scores have the shape (n, p, k): rows, problems, and the classes that a problem tells apart, of
which there is one where the loss is of a score's sign.
"""

from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch.nn.functional import relu, softplus

__all__ = ["Logistic", "Loss", "Softmax", "SquaredHinge"]


class Loss(Protocol):
    """A convex function of each row's scores."""

    def value(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the loss of each row in each problem, shape (n, p)."""

    def slope(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradient, and what `bend` and `bend_diagonal` need; of the scores' shape."""

    def bend(self, state: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """Return the product of each row's Hessian with a direction, of the scores' shape."""

    def bend_diagonal(self, state: torch.Tensor) -> torch.Tensor:
        """Return the diagonal of each row's Hessian, of the scores' shape."""

    def take(self, problems: torch.Tensor) -> "Loss":
        """Return the loss of some of the problems."""


@dataclass(frozen=True)
class Softmax:
    """Multinomial logistic loss.

    Attributes
    ----------
    labels : torch.Tensor
        int64 of shape (n,).
    """

    labels: torch.Tensor

    def value(self, scores: torch.Tensor) -> torch.Tensor:
        """As `Loss.value`."""
        own = scores.gather(2, self._places(scores))[..., 0]
        return torch.logsumexp(scores, 2) - own

    def slope(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Loss.slope`."""
        shares = torch.softmax(scores, 2)
        places = self._places(scores)
        return shares.scatter_add(2, places, -torch.ones_like(places, dtype=shares.dtype)), shares

    def bend(self, state: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """As `Loss.bend`."""
        return state * (direction - (state * direction).sum(2, keepdim=True))

    def bend_diagonal(self, state: torch.Tensor) -> torch.Tensor:
        """As `Loss.bend_diagonal`."""
        return state * (1 - state)

    def take(self, problems: torch.Tensor) -> Self:  # noqa: ARG002 - they share their labels
        """As `Loss.take`."""
        return self

    def _places(self, scores: torch.Tensor) -> torch.Tensor:
        return self.labels[:, None, None].expand(-1, scores.shape[1], 1)


@dataclass(frozen=True)
class Logistic:
    """Logistic loss of one score per problem.

    Attributes
    ----------
    signs : torch.Tensor
        1 or -1, of shape (n, p, 1).
    """

    signs: torch.Tensor

    def value(self, scores: torch.Tensor) -> torch.Tensor:
        """As `Loss.value`."""
        return softplus(-self.signs * scores)[..., 0]

    def slope(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Loss.slope`."""
        wrong = torch.sigmoid(-self.signs * scores)
        return -self.signs * wrong, wrong * (1 - wrong)

    def bend(self, state: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """As `Loss.bend`."""
        return state * direction

    def bend_diagonal(self, state: torch.Tensor) -> torch.Tensor:
        """As `Loss.bend_diagonal`."""
        return state

    def take(self, problems: torch.Tensor) -> Self:
        """As `Loss.take`."""
        return replace(self, signs=self.signs[:, problems])


class SquaredHinge(Logistic):
    """Squared hinge loss of one score per problem; its Hessian is a generalised one."""

    def value(self, scores: torch.Tensor) -> torch.Tensor:
        """As `Loss.value`."""
        return relu(1 - self.signs * scores).square()[..., 0]

    def slope(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Loss.slope`."""
        short = relu(1 - self.signs * scores)
        return -2 * self.signs * short, 2 * (short > 0).to(scores.dtype)
