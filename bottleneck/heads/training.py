"""The training of a network with one hidden layer."""

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
            epoch = {**run.step_through(), **run.validated(held)}
            history.append({"epoch": len(history) + 1, **epoch})
            if epoch["val_loss"] <= min(each["val_loss"] for each in history):
                best = len(history)
                state = {name: each.clone() for name, each in run.network.state_dict().items()}
            if progress:
                progress("mlp", len(history), settings.epochs)
    run.network.load_state_dict(state)
    return Fitted(run.folded(), history=history)


class _Training:
    """A network, its optimiser, and the rows that it is trained on."""

    def __init__(self, settings: MLPSettings, problem: Problem) -> None:
        self._settings, self._problem = settings, problem
        self._mean, self._scale = problem.moments()
        self._device = torch.device(problem.device)
        self._shift = self._moved(self._mean.astype(np.float32))
        self._factor = self._moved((1 / self._scale).astype(np.float32))
        self.network = nn.Sequential(
            nn.Linear(problem.rows.shape[1], settings.hidden),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, len(problem.targets.classes)),
        ).to(self._device)
        self._optimizer = torch.optim.AdamW(
            self.network.parameters(), settings.learning_rate, weight_decay=_WEIGHT_DECAY
        )
        counts = problem.counts(np.ones((len(problem.rows), 1), dtype=bool))[:, 0]
        self._weights = self._moved((counts / counts.mean()).astype(np.float32))

    def step_through(self) -> dict[str, float]:
        """Go through the rows once; return loss and accuracy as they were on the way."""
        self.network.train()
        problem = self._problem
        seen = np.zeros((len(problem.rows), len(problem.targets.classes)), dtype=np.float32)
        losses = []
        for rows in torch.split(torch.randperm(len(problem.rows)), self._settings.batch_size):
            places = rows.numpy()
            scores = self.network(self._standardised(problem.rows[places]))
            each = _losses(scores, problem.targets.take(places)) * self._weights[rows].reshape(
                len(rows), -1
            )
            loss = each.mean()
            if not loss.isfinite():
                raise self._diverged(f"its loss is {loss.item()}")
            self._optimizer.zero_grad()
            torch.autograd.backward(loss)
            self._optimizer.step()
            losses.append(each.detach())
            seen[places] = scores.detach().cpu().numpy()
        accuracy = _metrics(seen, problem.targets)["accuracy"]
        return {"loss": float(torch.cat(losses).mean()), "accuracy": accuracy}

    def validated(self, held: Problem) -> dict[str, float]:
        """Return the log loss and the accuracy of held-out rows, which all count the same."""
        self.network.eval()
        with torch.inference_mode():
            blocks = [held.rows[start : start + _ROWS] for start in range(0, len(held.rows), _ROWS)]
            scores = [self.network(self._standardised(block)).cpu().numpy() for block in blocks]
        if not np.isfinite(found := np.concatenate(scores)).all():
            raise self._diverged("its scores are not finite")
        metrics = _metrics(found, held.targets)
        return {"val_loss": metrics["log_loss"], "val_accuracy": metrics["accuracy"]}

    def folded(self) -> Perceptron:
        """Return the network for features as they are."""
        state = self.network.state_dict()
        arrays = {name: each.cpu().numpy().copy() for name, each in state.items()}
        hidden = arrays["0.weight"] / self._scale
        return Perceptron(
            hidden_weight=hidden.astype(np.float32),
            hidden_bias=(arrays["0.bias"] - hidden @ self._mean).astype(np.float32),
            weight=arrays["3.weight"],
            bias=arrays["3.bias"],
            dropout=self._settings.dropout,
        )

    def _diverged(self, found: str) -> DataError:
        return DataError(
            f"the training diverged: {found}, expected finite numbers; give a learning rate below "
            f"{self._settings.learning_rate:g}"
        )

    def _standardised(self, X: np.ndarray) -> torch.Tensor:
        return (self._moved(X).float() - self._shift) * self._factor

    def _moved(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)


def _losses(scores: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Return the losses of shape (n, 1), or (n, k) where a row may be of several classes."""
    codes = torch.from_numpy(targets.codes).to(scores.device)
    if targets.multilabel:
        return functional.binary_cross_entropy_with_logits(scores, codes.float(), reduction="none")
    return functional.cross_entropy(scores, codes, reduction="none")[:, None]


def _metrics(scores: np.ndarray, targets: Targets) -> dict[str, float]:
    return score_metrics(link_of("mlp", multilabel=targets.multilabel), scores, targets)
