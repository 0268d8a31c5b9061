"""The nearest rows as a module of torch."""

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from bottleneck.heads.models import Neighbours

__all__ = ["NearestRows"]


class NearestRows(nn.Module):
    """Scores features as `bottleneck.heads.models.Neighbours` does.

    Parameters
    ----------
    model : Neighbours
        Whose rows it takes.
    """

    rows: torch.Tensor
    votes: torch.Tensor
    counts: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, model: "Neighbours") -> None:
        super().__init__()
        for name in ("rows", "votes", "counts", "mean", "scale"):
            self.register_buffer(name, torch.from_numpy(getattr(model, name)))
        self._n_neighbors = min(model.n_neighbors, len(model.rows))
        self._multilabel = model.multilabel

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return scores of shape (n, k) of features of shape (n, d)."""
        distances = torch.cdist((features - self.mean) / self.scale, self.rows)
        nearest = distances.topk(self._n_neighbors, largest=False).indices
        said, there = self.votes[nearest].sum(1), self.counts[nearest].sum(1)
        if self._multilabel:
            return torch.log(said + 0.5) - torch.log(there - said + 0.5)
        return torch.log((said + 1 / said.shape[1]) / (there + 1))
