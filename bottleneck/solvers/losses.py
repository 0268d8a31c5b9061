"""Losses of linear classifiers, and their gradients."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

__all__ = ["LOSSES", "Targets", "evaluate_rows", "in_steps"]

LOSSES = ("softmax", "logistic", "squared_hinge")
_STEPS = 8
"""With so many, 9/16 of a triangle's square are multiplied."""
_STEP_ROWS = 256
"""Fewer rows are not multiplied faster."""


@dataclass(frozen=True)
class Targets:
    """The targets of rows, and the loss of scores for them.

    Attributes
    ----------
    loss : str
        One of `LOSSES`; ``logistic`` in place of softmax for two classes, which is equivalent.
    wanted : np.ndarray
        For softmax, the class of each row, int of shape (n,); else 1 or -1, int8 of shape (n, k).
    width : int
        Number of scores per row, k.
    """

    loss: str
    wanted: np.ndarray
    width: int

    @classmethod
    def of(cls, labels: np.ndarray, loss: str) -> Self:
        """Build targets from labels as in `bottleneck.solvers.path.fit_path`.

        Parameters
        ----------
        labels : np.ndarray
            int of shape (n,) from 0 on; or bool of shape (n, k).
        loss : str
            One of `LOSSES`.

        Returns
        -------
        Targets
            n rows.
        """
        if labels.ndim > 1:
            return cls(loss, np.where(labels, 1, -1).astype(np.int8), labels.shape[1])
        classes = int(labels.max()) + 1
        if classes <= 2:  # noqa: PLR2004 - one score tells two classes apart
            return cls.of(labels[:, None] == 1, "logistic" if loss == "softmax" else loss)
        if loss == "softmax":
            return cls(loss, labels, classes)
        return cls.of(labels[:, None] == np.arange(classes), loss)

    def take(self, rows: np.ndarray | slice) -> Self:
        """Return the targets of some rows.

        Parameters
        ----------
        rows : np.ndarray or slice
            Boolean mask of shape (n,), indices, or a slice.

        Returns
        -------
        Targets
        """
        return replace(self, wanted=self.wanted[rows])

    @property
    def at_zero(self) -> tuple[float, float]:
        """The loss of a row if all scores are 0, and its second derivative by one of them."""
        if self.loss == "softmax":
            return float(np.log(self.width)), (1 - 1 / self.width) / self.width
        if self.loss == "logistic":
            return self.width * float(np.log(2)), 0.25
        return float(self.width), 2.0

    def losses(self, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the weighted losses, summed over the rows, and their gradient.

        Parameters
        ----------
        scores : np.ndarray
            Shape (n, k).
        weights : np.ndarray
            Sample weights of the same dtype, of shape (n,) or (n, k).

        Returns
        -------
        losses : np.ndarray
            float64 of shape (k,), or (1,) for softmax.
        gradient : np.ndarray
            Shape (n, k).
        """
        weights = weights if weights.ndim > 1 else weights[:, None]
        each, gradient = self._softmax(scores) if self.loss == "softmax" else self._margins(scores)
        return (weights * each).sum(axis=0, dtype=np.float64), weights * gradient

    def _softmax(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = np.arange(len(scores)), self.wanted
        scores = scores - scores.max(axis=1, keepdims=True)
        shares = np.exp(scores)
        sums = shares.sum(axis=1, keepdims=True)
        shares /= sums
        shares[own] -= 1
        return np.log(sums) - scores[own][:, None], shares

    def _margins(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        margins = self.wanted * scores
        if self.loss == "logistic":
            odds = np.exp(-np.abs(margins))
            losses = np.maximum(-margins, 0) + np.log1p(odds)
            return losses, -self.wanted * np.where(margins > 0, odds, 1) / (1 + odds)
        short = np.maximum(1 - margins, 0)
        return short**2, -2 * self.wanted * short


def in_steps(rows: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Order rows by their last columns that are not zero, and leave out the zeros after these.

    Products with the rows of a Cholesky factor, see `bottleneck.solvers.reduce_rows`, then take
    little more than half the time.

    Parameters
    ----------
    rows : np.ndarray
        Shape (n, r).
    chosen : np.ndarray
        Indices of m rows.

    Returns
    -------
    order : np.ndarray
        The indices in another order; as they are if most rows have no zero at the end.
    parts : list of np.ndarray
        The rows in this order, the first of each: all but the columns that are zero in a part.
    """
    count = min(_STEPS, len(chosen) // _STEP_ROWS)
    if count <= 1 or np.count_nonzero(rows[chosen, -1:]) > len(chosen) / 2:
        return chosen, [rows[chosen]]
    ends = np.array([np.flatnonzero(rows[row])[-1:].sum() + 1 for row in chosen])
    order = ends.argsort(kind="stable")
    parts = np.array_split(order, count)
    return chosen[order], [rows[chosen[part], : ends[part[-1]]] for part in parts]


def evaluate_rows(
    parts: Sequence[np.ndarray], targets: Targets, weights: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted losses of f folds, summed over the rows, and their gradient.

    Parameters
    ----------
    parts : sequence of np.ndarray
        n rows of r columns in parts, each without the last columns if these are zero.
    targets : Targets
        Targets of the n rows.
    weights : np.ndarray
        Sample weights of the same dtype, of shape (n, f) or (n, f, k).
    columns : np.ndarray
        Shape (r + 1, f k): weights, and in the last row intercepts.

    Returns
    -------
    losses : np.ndarray
        Shape (f, k), or (f, 1) for softmax.
    gradient : np.ndarray
        Shape (r + 1, f k).
    """
    own = columns.astype(parts[0].dtype, copy=False)
    products = np.vstack([part @ own[: part.shape[1]] for part in parts])
    scores = np.split(products + own[-1], weights.shape[1], axis=1)
    found = map(targets.losses, scores, weights.swapaxes(0, 1))
    losses, derivative = map(np.hstack, zip(*found, strict=True))
    gradient, start = np.zeros_like(own), 0
    for part in parts:
        stop = start + len(part)
        gradient[: part.shape[1]] += (derivative[start:stop].T @ part).T
        start = stop
    gradient[-1] = derivative.sum(axis=0)
    return losses.reshape(weights.shape[1], -1), gradient
