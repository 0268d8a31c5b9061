"""Training in epochs, with early stopping and callbacks: one loop for `mlp` and for fine-tuning."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional

from bottleneck.errors import DataError
from bottleneck.heads.problem import row_weights
from bottleneck.labels import Targets
from bottleneck.settings import FinetuneSettings, MLPSettings

__all__ = ["DivergedError", "State", "are_right", "losses", "run_epochs", "sample_weights"]


class DivergedError(DataError):
    """A loss or score is no longer finite."""


class Learner(Protocol):
    """A network with its optimizer, training images and validation images."""

    def step_through(self, epoch: int) -> dict[str, float]:
        """Train for one epoch, counted from 1; return its running ``loss`` and ``accuracy``."""

    def validated(self) -> tuple[dict[str, float], bool]:
        """Return ``val_loss`` and ``val_accuracy`` of the network, and whether it is the best."""

    def weights(self) -> Any:
        """Return a copy of what has been trained."""


@dataclass(frozen=True)
class State:
    """The progress of a training.

    Attributes
    ----------
    start : dict
        ``val_loss`` and ``val_accuracy`` before the first step.
    best : Any
        `Learner.weights` after the best epoch, or before the first.
    history : list of dict
        ``epoch``, ``loss``, ``accuracy``, ``val_loss`` and ``val_accuracy`` of each epoch, and what
        callbacks added.
    best_epoch : int
        The epoch that the learner finds best; 0 if none was better than the start.
    diverged : str
        What was not finite in the epoch after the last one, if anything.
    """

    start: dict[str, float]
    best: Any
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    diverged: str = ""


def run_epochs(
    learner: Learner,
    state: State,
    settings: MLPSettings | FinetuneSettings,
    callbacks: Sequence[Callable[[State], None]] = (),
) -> State:
    """Train until the maximum of epochs, or until no epoch is better any more.

    Parameters
    ----------
    learner : Learner
        What is trained.
    state : State
        The progress so far.
    settings : MLPSettings or FinetuneSettings
        Their `epochs` and `patience`.
    callbacks : sequence of callable
        Called with the state after each epoch, in this order.

    Returns
    -------
    State
        The progress at the end.
    """
    while len(state.history) < min(settings.epochs, state.best_epoch + settings.patience):
        epoch = len(state.history) + 1
        try:
            trained, (validated, best) = learner.step_through(epoch), learner.validated()
        except DivergedError as error:
            return replace(state, diverged=str(error))
        state.history.append({"epoch": epoch, **trained, **validated})
        if best:
            state = replace(state, best=learner.weights(), best_epoch=epoch)
        for callback in callbacks:
            callback(state)
    return state


def sample_weights(targets: Targets, weights: np.ndarray, *, balanced: bool) -> torch.Tensor:
    """Return sample weights for training, with a mean of 1.

    Parameters
    ----------
    targets : Targets
        Labels of n rows.
    weights : np.ndarray
        Sample weights, shape (n,).
    balanced : bool
        Whether each class has the same total weight, however many rows it has.

    Returns
    -------
    torch.Tensor
        float32 of shape (n, 1), or (n, k) if a row has a weight for each of its classes.
    """
    own = row_weights(targets, weights, balanced=balanced)
    scaled = (own / own.mean()).astype(np.float32)
    return torch.from_numpy(scaled.reshape(len(scaled), -1))


def losses(
    link: str, scores: torch.Tensor, codes: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """Return losses of shape (n, 1), or (n, k) if rows may have several classes.

    Parameters
    ----------
    link : str
        See `bottleneck.heads.scoring.link_of`.
    scores : torch.Tensor
        Shape (n, k), divided by the temperature.
    codes : torch.Tensor
        The class of each row, int64 of shape (n,), or bool of shape (n, k).
    smoothing : float
        Fraction of each target that is spread over all classes, or over yes and no.

    Returns
    -------
    torch.Tensor
        float32.
    """
    if link == "softmax":
        found = functional.cross_entropy(scores, codes, reduction="none", label_smoothing=smoothing)
        return found[:, None]
    wanted = codes if codes.dim() > 1 else functional.one_hot(codes, scores.shape[1])
    shares = wanted.float() * (1 - smoothing) + smoothing / 2
    return functional.binary_cross_entropy_with_logits(scores, shares, reduction="none")


def are_right(scores: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return which rows are classified correctly, in all of their classes.

    Parameters
    ----------
    scores, codes : torch.Tensor
        As for `losses`.

    Returns
    -------
    torch.Tensor
        bool of shape (n,).
    """
    if codes.dim() > 1:
        return ((scores > 0) == codes).all(dim=1)
    return scores.argmax(dim=1) == codes
