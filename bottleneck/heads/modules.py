"""Heads as torch modules, and the training of a network with one hidden layer."""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bottleneck.errors import DataError
from bottleneck.heads.models import Model, Neighbours, Perceptron
from bottleneck.heads.problem import Fitted, Problem, Progress
from bottleneck.heads.scoring import link_of, score_metrics
from bottleneck.labels import Targets
from bottleneck.settings import MLPSettings

__all__ = ["module_of", "train"]

_WEIGHT_DECAY = 0.01


def module_of(model: Model) -> nn.Module:
    """Return a torch module that computes a model's scores and can be trained further.

    Parameters
    ----------
    model : Model
        The model of a head.

    Returns
    -------
    torch.nn.Module
        A `torch.nn.Linear`; a `torch.nn.Sequential` of two of them; or a module that holds the rows
        of nearest neighbours and searches them.
    """
    if isinstance(model, Neighbours):
        return _NearestRows(model)
    classes = len(model.arrays["bias"])
    module: nn.Module = nn.Linear(model.n_features, classes)
    if isinstance(model, Perceptron):
        module = _network(model.n_features, len(model.hidden_bias), classes, model.dropout).eval()
    arrays = map(torch.from_numpy, model.arrays.values())  # in the same order
    module.load_state_dict(dict(zip(module.state_dict(), arrays, strict=True)))
    return module


def _network(n_features: int, hidden: int, classes: int, dropout: float) -> nn.Sequential:
    first, last = nn.Linear(n_features, hidden), nn.Linear(hidden, classes)
    return nn.Sequential(first, nn.ReLU(), nn.Dropout(dropout), last)


class _NearestRows(nn.Module):
    """Scores features as `bottleneck.heads.models.Neighbours` does."""

    def __init__(self, model: Neighbours) -> None:
        super().__init__()
        for name, array in model.arrays.items():
            self.register_buffer(name, torch.from_numpy(array))
        self._n_neighbors = min(model.n_neighbors, len(model.rows))
        self._multilabel = model.multilabel

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return scores of shape (n, k) of features of shape (n, d)."""
        rows, votes, counts, mean, scale = self.buffers()  # as `Neighbours` declares them
        distances = torch.cdist((features - mean) / scale, rows)
        nearest = distances.topk(self._n_neighbors, largest=False).indices
        said, there = votes[nearest].sum(1), counts[nearest].sum(1)
        if self._multilabel:
            return torch.log(said + 0.5) - torch.log(there - said + 0.5)
        return torch.log((said + 1 / said.shape[1]) / (there + 1))


def train(
    settings: MLPSettings, problem: Problem, held: Problem, progress: Progress | None = None
) -> Fitted:
    """Train a network on standardised features and return its best epoch.

    Parameters
    ----------
    settings : MLPSettings
        Hyperparameters.
    problem : Problem
        The rows to train on.
    held : Problem
        The held-out rows, whose log loss decides the best epoch and early stopping.
    progress : callable, optional
        Called with ``"mlp"``, the number of epochs done and the maximum.

    Returns
    -------
    Fitted
        The model, with the history of its epochs.

    Raises
    ------
    DataError
        The training diverged.
    """
    history: list[dict[str, Any]] = []
    device = torch.device(problem.device)
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        torch.manual_seed(problem.seed)
        run, best = _Training(settings, problem), 0
        while len(history) < settings.epochs and len(history) - best < settings.patience:
            trained, model = run.step_through(), run.folded()
            with np.errstate(over="ignore", invalid="ignore"):
                scores = model.scores(held.rows)
            if not np.isfinite(scores).all():
                raise run.diverged("its scores are not finite")
            found = _metrics(scores, held.targets)
            validated = {"val_loss": found["log_loss"], "val_accuracy": found["accuracy"]}
            history.append({"epoch": len(history) + 1, **trained, **validated})
            if found["log_loss"] <= min(each["val_loss"] for each in history):
                best, kept = len(history), model
            if progress:
                progress("mlp", len(history), settings.epochs)
    return Fitted(kept, history=history)


class _Training:
    """A network, its optimizer, and its training rows."""

    def __init__(self, settings: MLPSettings, problem: Problem) -> None:
        self._settings, self._problem = settings, problem
        self._mean, self._scale = problem.moments()
        self._shift = self._moved(self._mean).float()
        self._factor = self._moved(1 / self._scale).float()
        sizes = problem.rows.shape[1], settings.hidden, len(problem.targets.classes)
        self._network = _network(*sizes, settings.dropout).to(problem.device)
        self._optimizer = torch.optim.AdamW(
            self._network.parameters(), settings.learning_rate, weight_decay=_WEIGHT_DECAY
        )
        counts = problem.counts(np.ones(len(problem.rows), dtype=bool))
        self._weights = self._moved(counts / counts.mean()).float().reshape(len(counts), -1)

    def step_through(self) -> dict[str, float]:
        """Train one epoch; return its running loss and accuracy."""
        targets, order = self._problem.targets, torch.randperm(len(self._problem.rows))
        losses, seen = [], []
        for rows in torch.split(order, self._settings.batch_size):
            features = self._moved(self._problem.rows[rows.numpy()]).float()
            scores = self._network((features - self._shift) * self._factor)
            each = _losses(scores, targets.take(rows.numpy())) * self._weights[rows]
            loss = each.mean()
            if not loss.isfinite():
                raise self.diverged(f"its loss is {loss.item()}")
            self._optimizer.zero_grad()
            torch.autograd.backward(loss)
            self._optimizer.step()
            losses.append(each.detach())
            seen.append(scores.detach())
        found = _metrics(torch.cat(seen).cpu().numpy(), targets.take(order.numpy()))
        return {"loss": float(torch.cat(losses).mean()), "accuracy": found["accuracy"]}

    def folded(self) -> Perceptron:
        """Return the current network as a model of raw features."""
        state = self._network.state_dict().values()
        hidden, hidden_bias, weight, bias = (each.cpu().numpy().copy() for each in state)
        hidden = hidden / self._scale
        hidden_bias = hidden_bias - hidden @ self._mean
        first = hidden.astype(np.float32), hidden_bias.astype(np.float32)
        return Perceptron(*first, weight, bias, self._settings.dropout)

    def diverged(self, found: str) -> DataError:
        """Return the error to raise when numbers are not finite."""
        return DataError(
            f"the training diverged: {found}, expected finite numbers; use a learning rate below "
            f"{self._settings.learning_rate:g}"
        )

    def _moved(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._problem.device)


def _losses(scores: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Return losses of shape (n, 1), or (n, k) if rows may have several classes."""
    codes = torch.from_numpy(targets.codes).to(scores.device)
    if targets.multilabel:
        return functional.binary_cross_entropy_with_logits(scores, codes.float(), reduction="none")
    return functional.cross_entropy(scores, codes, reduction="none")[:, None]


def _metrics(scores: np.ndarray, targets: Targets) -> dict[str, float]:
    return score_metrics(link_of("mlp", multilabel=targets.multilabel), scores, targets)
