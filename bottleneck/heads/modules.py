"""Heads as torch modules, and the training of a network with one hidden layer."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bottleneck.errors import DataError
from bottleneck.heads import training
from bottleneck.heads.adjust import Adjust
from bottleneck.heads.choosing import Choice, deal_groups
from bottleneck.heads.models import Fitted, Model, Neighbours, Perceptron
from bottleneck.heads.problem import Problem, Progress, Watch
from bottleneck.heads.scoring import link_of, score_metrics
from bottleneck.settings import MLPSettings

__all__ = ["module_of", "train"]

_WEIGHT_DECAY = 0.01


def module_of(model: Model, adjust: Adjust) -> nn.Module:
    """Return a torch module that computes a model's scores and can be trained further.

    Parameters
    ----------
    model : Model
        The model of a head.
    adjust : Adjust
        What is done with features before.

    Returns
    -------
    torch.nn.Module
        A `torch.nn.Linear`; a `torch.nn.Sequential` of two of them; or a module that holds the rows
        of nearest neighbours and searches them.
    """
    module = _module_of(model)
    return nn.Sequential(_Adjusting(adjust), module) if adjust.changes else module


def _module_of(model: Model) -> nn.Module:
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


class _Adjusting(nn.Module):
    """Adjusts features of shape (n, d) as `bottleneck.heads.adjust.Adjust` does."""

    def __init__(self, adjust: Adjust) -> None:
        super().__init__()
        self._adjust = adjust

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return adjusted features of the same shape."""
        if self._adjust.power != 1:
            # The gradient of a root of 0 is infinite; units that are off get none.
            off = features == 0
            sizes = torch.where(off, 1, features.abs()) ** self._adjust.power
            features = torch.where(off, 0, features.sign() * sizes)
        if self._adjust.normalize != "l2":
            return features
        columns = self._adjust.parts(features.shape[1])
        return torch.cat([functional.normalize(features[:, each]) for each in columns], dim=1)


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
        # The squared norm of a row of features is the same for all candidates, so it is left out.
        distances = rows.square().sum(1) - 2 * ((features - mean) / scale) @ rows.T
        nearest = distances.topk(self._n_neighbors, largest=False).indices
        said, there = votes[nearest].sum(1), counts[nearest].sum(1)
        if self._multilabel:
            return torch.log(said + 0.5) - torch.log(there - said + 0.5)
        return torch.log((said + 1 / said.shape[1]) / (there + 1))


def train(
    settings: MLPSettings,
    problem: Problem,
    held: Problem,
    progress: Progress | None = None,
    watch: Watch | None = None,
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
    watch : callable, optional
        Called after each epoch with its metrics.

    Returns
    -------
    Fitted
        The model, with the history and the choice of its epoch.

    Raises
    ------
    DataError
        The training diverged.
    """

    def report(state: training.State) -> None:
        if progress:
            progress("mlp", len(state.history), settings.epochs)
        if watch:
            watch(state.history[-1])

    device = torch.device(problem.device)
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        torch.manual_seed(problem.seed)
        learner, start = _Training(settings, problem, held), training.State({}, None)
        state = training.run_epochs(learner, start, settings, [report])
    if state.diverged:
        raise DataError(
            f"the training diverged in epoch {len(state.history) + 1}: {state.diverged}, expected "
            f"finite numbers; give a lower `learning_rate`, such as "
            f"`learning_rate={settings.learning_rate / 10:g}`"
        )
    return Fitted(state.best, history=state.history, choice=learner.choice)


class _Training:
    """A network, its optimizer, its training rows and held-out rows; see `Learner`."""

    def __init__(self, settings: MLPSettings, problem: Problem, held: Problem) -> None:
        self._settings, self._rows, self._held = settings, problem.rows, held
        self._device, targets = problem.device, problem.targets
        self._link = link_of("mlp", multilabel=targets.multilabel)
        parts = deal_groups(held.groups, targets=held.targets)
        self.choice = Choice(self._link, held.targets, parts)
        self._mean, self._scale = problem.moments()
        self._shift = self._moved(self._mean).float()
        self._factor = self._moved(1 / self._scale).float()
        sizes = problem.rows.shape[1], settings.hidden, len(targets.classes)
        self._network = _network(*sizes, settings.dropout).to(problem.device)
        self._optimizer = torch.optim.AdamW(
            self._network.parameters(), settings.learning_rate, weight_decay=_WEIGHT_DECAY
        )
        weights = training.sample_weights(targets, problem.weights, balanced=problem.balanced)
        self._weights, self._codes = weights.to(self._device), self._moved(targets.codes)

    def step_through(self, epoch: int) -> dict[str, float]:  # noqa: ARG002 - the same in each
        """As `Learner.step_through`."""
        seen, right = [], []
        for rows in torch.split(torch.randperm(len(self._rows)), self._settings.batch_size):
            features, codes = self._moved(self._rows[rows.numpy()]).float(), self._codes[rows]
            scores = self._network((features - self._shift) * self._factor)
            each = training.losses(self._link, scores, codes) * self._weights[rows]
            loss = each.mean()
            if not loss.isfinite():
                raise training.DivergedError(f"its loss is {loss.item()}")
            self._optimizer.zero_grad()
            torch.autograd.backward(loss)
            self._optimizer.step()
            seen.append(each.detach())
            right.append(training.are_right(scores, codes).double())
        return {"loss": float(torch.cat(seen).mean()), "accuracy": float(torch.cat(right).mean())}

    def validated(self) -> tuple[dict[str, float], bool]:
        """As `Learner.validated`."""
        with np.errstate(over="ignore", invalid="ignore"):
            scores = self.weights().scores(self._held.rows)
        if not np.isfinite(scores).all():
            raise training.DivergedError("its scores are not finite")
        found = score_metrics(self._link, scores, self._held.targets)
        metrics = {"val_loss": found["log_loss"], "val_accuracy": found["accuracy"]}
        return metrics, self.choice.offer(scores)

    def weights(self) -> Perceptron:
        """Return the current network as a model of raw features."""
        state = self._network.state_dict().values()
        if not all(bool(each.isfinite().all()) for each in state):
            raise training.DivergedError("its weights are not finite")
        hidden, hidden_bias, weight, bias = (each.cpu().numpy().copy() for each in state)
        hidden = hidden / self._scale
        hidden_bias = hidden_bias - hidden @ self._mean
        first = hidden.astype(np.float32), hidden_bias.astype(np.float32)
        return Perceptron(*first, weight, bias, self._settings.dropout)

    def _moved(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)
