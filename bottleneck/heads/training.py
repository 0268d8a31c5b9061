"""The training of a network with one hidden layer."""

from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bottleneck.errors import DataError
from bottleneck.heads.models import Perceptron
from bottleneck.heads.problem import Fitted, Problem, Progress
from bottleneck.heads.scoring import link_of, score_metrics
from bottleneck.labels import Targets
from bottleneck.settings import MLPSettings

__all__ = ["train"]

_WEIGHT_DECAY = 0.01
_ROWS = 1024
"""Held-out rows that are scored at a time."""


def train(
    settings: MLPSettings, problem: Problem, held: Problem, progress: Progress | None = None
) -> Fitted:
    """Train a network on standardised features; it is left as it was at its best.

    Parameters
    ----------
    settings : MLPSettings
        How.
    problem : Problem
        The rows to train on.
    held : Problem
        The rows whose log loss says which epoch was the best, and when to stop.
    progress : callable, optional
        Called with ``"mlp"``, the epochs done and the most there may be.

    Raises
    ------
    DataError
        The training diverged.
    """
    device = torch.device(problem.device)
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        torch.manual_seed(problem.seed)
        run = _Training(settings, problem)
        history: list[dict[str, Any]] = []
        best, state = 0, run.network.state_dict()
        while len(history) < settings.epochs and len(history) - best < settings.patience:
            epoch = {"epoch": len(history) + 1, **run.step_through(), **run.validated(held)}
            history.append(epoch)
            if epoch["val_loss"] <= min(each["val_loss"] for each in history):
                best, state = len(history), deepcopy(run.network.state_dict())
            if progress:
                progress("mlp", len(history), settings.epochs)
    run.network.load_state_dict(state)
    return Fitted(run.folded(), history=history)


class _Training:
    """A network, its optimizer, and the rows that it is trained on."""

    def __init__(self, settings: MLPSettings, problem: Problem) -> None:
        self._settings, self._problem = settings, problem
        self._moments = problem.moments()
        mean, scale = self._moments
        self._shift, self._factor = self._moved(mean).float(), self._moved(1 / scale).float()
        self.network = nn.Sequential(
            nn.Linear(problem.rows.shape[1], settings.hidden),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, len(problem.targets.classes)),
        ).to(problem.device)
        self._optimizer = torch.optim.AdamW(
            self.network.parameters(), settings.learning_rate, weight_decay=_WEIGHT_DECAY
        )
        counts = problem.counts(np.ones((len(problem.rows), 1), dtype=bool))[:, 0]
        self._weights = self._moved(counts / counts.mean()).float().reshape(len(counts), -1)

    def step_through(self) -> dict[str, float]:
        """Go through the rows once; return loss and accuracy as they were on the way."""
        self.network.train()
        targets, order = self._problem.targets, torch.randperm(len(self._problem.rows))
        losses, seen = [], []
        for rows in torch.split(order, self._settings.batch_size):
            scores = self._scores(self._problem.rows[rows.numpy()])
            each = _losses(scores, targets.take(rows.numpy())) * self._weights[rows]
            loss = each.mean()
            if not loss.isfinite():
                raise self._diverged(f"its loss is {loss.item()}")
            self._optimizer.zero_grad()
            torch.autograd.backward(loss)
            self._optimizer.step()
            losses.append(each.detach())
            seen.append(scores.detach())
        accuracy = _metrics(torch.cat(seen), targets.take(order.numpy()))["accuracy"]
        return {"loss": float(torch.cat(losses).mean()), "accuracy": accuracy}

    def validated(self, held: Problem) -> dict[str, float]:
        """Return the log loss and the accuracy of held-out rows, which all count the same."""
        self.network.eval()
        with torch.inference_mode():
            blocks = np.split(held.rows, range(_ROWS, len(held.rows), _ROWS))
            scores = torch.cat([self._scores(block) for block in blocks])
        if not scores.isfinite().all():
            raise self._diverged("its scores are not finite")
        metrics = _metrics(scores, held.targets)
        return {"val_loss": metrics["log_loss"], "val_accuracy": metrics["accuracy"]}

    def folded(self) -> Perceptron:
        """Return the network for features as they are."""
        arrays = {name: each.cpu().numpy() for name, each in self.network.state_dict().items()}
        mean, scale = self._moments
        hidden = arrays["0.weight"] / scale
        return Perceptron(
            hidden_weight=hidden.astype(np.float32),
            hidden_bias=(arrays["0.bias"] - hidden @ mean).astype(np.float32),
            weight=arrays["3.weight"],
            bias=arrays["3.bias"],
            dropout=self._settings.dropout,
        )

    def _diverged(self, found: str) -> DataError:
        return DataError(
            f"the training diverged: {found}, expected finite numbers; give a learning rate below "
            f"{self._settings.learning_rate:g}"
        )

    def _scores(self, X: np.ndarray) -> torch.Tensor:
        scores: torch.Tensor = self.network((self._moved(X).float() - self._shift) * self._factor)
        return scores

    def _moved(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._problem.device)


def _losses(scores: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Return the losses of shape (n, 1), or (n, k) where a row may be of several classes."""
    codes = torch.from_numpy(targets.codes).to(scores.device)
    if targets.multilabel:
        return functional.binary_cross_entropy_with_logits(scores, codes.float(), reduction="none")
    return functional.cross_entropy(scores, codes, reduction="none")[:, None]


def _metrics(scores: torch.Tensor, targets: Targets) -> dict[str, float]:
    link = link_of("mlp", multilabel=targets.multilabel)
    return score_metrics(link, scores.cpu().numpy(), targets)
