"""The nearest rows as a module of torch."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

__all__ = ["NearestRows"]


class NearestRows(nn.Module):
    """Scores features as `bottleneck.heads.models.Neighbours` does.

    Parameters
    ----------
    arrays : mapping of str to np.ndarray
        Its `rows`, `votes`, `counts`, `mean` and `scale`.
    n_neighbors : int
        How many vote.
    multilabel : bool
        Whether a row may be of several classes.
    """

    rows: torch.Tensor
    votes: torch.Tensor
    counts: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self, arrays: Mapping[str, np.ndarray], n_neighbors: int, *, multilabel: bool
    ) -> None:
        super().__init__()
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(array))
        self._n_neighbors = min(n_neighbors, len(self.rows))
        self._multilabel = multilabel

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return scores of shape (n, k) of features of shape (n, d)."""
        distances = torch.cdist((features - self.mean) / self.scale, self.rows)
        nearest = distances.topk(self._n_neighbors, largest=False).indices
        said, there = self.votes[nearest].sum(1), self.counts[nearest].sum(1)
        if self._multilabel:
            return torch.log(said + 0.5) - torch.log(there - said + 0.5)
        return torch.log((said + 1 / said.shape[1]) / (there + 1))
