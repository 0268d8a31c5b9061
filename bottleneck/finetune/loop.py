"""The training loop: epochs, validation, early stopping, optimizer, learning rates and losses."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import chain
from math import cos, inf, pi
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.nn import functional

from bottleneck.errors import DataError
from bottleneck.finetune.data import Activations, Batches
from bottleneck.finetune.network import TunedNetwork
from bottleneck.heads import Head
from bottleneck.heads.problem import row_weights
from bottleneck.heads.scoring import score_metrics
from bottleneck.labels import Targets
from bottleneck.settings import FinetuneSettings

__all__ = ["Labelled", "State", "Training", "losses", "make_optimizer", "rate_factor"]

_MOMENTUM = 0.9
_STEPS_BETWEEN_CHECKS = 20


class DivergedError(DataError):
    """The loss is no longer finite."""


@dataclass(frozen=True)
class Labelled:
    """Images with their labels and sample weights.

    Attributes
    ----------
    activations : Activations
        Activations of n images.
    targets : Targets
        Labels of the n images.
    weights : np.ndarray
        Sample weights, shape (n,).
    """

    activations: Activations
    targets: Targets
    weights: np.ndarray

    def counts(self, *, balanced: bool) -> torch.Tensor:
        """Return sample weights for training: mean 1, float32 of shape (n, 1) or (n, k)."""
        counts = row_weights(self.targets, self.weights, balanced=balanced)
        scaled = (counts / counts.mean()).astype(np.float32)
        return torch.from_numpy(scaled.reshape(len(scaled), -1))


@dataclass(frozen=True)
class State:
    """The progress of a training.

    Attributes
    ----------
    history : list of dict
        ``epoch``, ``loss``, ``accuracy``, ``val_loss``, ``val_accuracy``, ``learning_rate`` (of the
        head, in the last step) and ``seconds`` of each epoch.
    start : dict
        ``val_loss`` and ``val_accuracy`` before the first step.
    best : dict of str to torch.Tensor
        `TunedNetwork.tuned_state` after the best epoch, or before the first.
    best_epoch : int
        The epoch with the lowest validation loss; 0 if none improved on the start.
    diverged : int or None
        The epoch in which the loss became nan or inf, if any.
    """

    history: list[dict[str, Any]]
    start: dict[str, float]
    best: dict[str, torch.Tensor]
    best_epoch: int = 0
    diverged: int | None = None

    def is_over(self, settings: FinetuneSettings) -> bool:
        """Whether training is finished."""
        done = len(self.history)
        waited = done - self.best_epoch >= settings.patience
        return self.diverged is not None or done >= settings.epochs or waited


@dataclass
class Training:
    """A network, its optimizer, and its training images.

    Attributes
    ----------
    fabric : Fabric
        A launched Fabric.
    network : TunedNetwork
        The network before the first step.
    settings : FinetuneSettings
        Hyperparameters.
    train, val : Labelled
        Training and validation images.
    head : Head
        The head before the first step; its link turns scores into probabilities.
    progress : callable, optional
        Called with ``"finetune"``, the number of images trained on so far and the maximum.
    """

    fabric: Fabric
    network: TunedNetwork
    settings: FinetuneSettings
    train: Labelled
    val: Labelled
    head: Head
    progress: Callable[..., None] | None = None
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = make_optimizer(self.network, self.settings)
        self._module, self._stepper = self.fabric.setup(self.network, self.optimizer)
        self._counts = self.train.counts(balanced=self.settings.balanced)
        self._codes = torch.from_numpy(self.train.targets.codes)

    def started(self) -> State:
        """Return the state before the first step.

        Raises
        ------
        DataError
            Some scores are not finite.
        """
        return State([], self._validated(), self.network.tuned_state())

    def epoch(self, state: State) -> State:
        """Train for another epoch, and validate."""
        number, began = len(state.history) + 1, time.monotonic()
        try:
            trained = self._step_through(number)
            found = self._validated()
        except DivergedError:
            return replace(state, diverged=number)
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        seconds = round(time.monotonic() - began, 3)
        row = {"epoch": number, **trained, **found, "learning_rate": rate, "seconds": seconds}
        best = min([state.start, *state.history], key=lambda each: each["val_loss"])["val_loss"]
        better = found["val_loss"] < best
        return replace(
            state,
            history=[*state.history, row],
            best=self.network.tuned_state() if better else state.best,
            best_epoch=number if better else state.best_epoch,
        )

    def scores(self) -> np.ndarray:
        """Return the scores of the validation images, float32 of shape (n, k)."""
        fabric, settings, targets = self.fabric, self.settings, self.val.targets
        at_once = max(1, settings.batch_size // (settings.accumulate * fabric.world_size))
        own = np.arange(len(targets))[fabric.global_rank :: fabric.world_size]
        pieces = np.array_split(own, -(-len(own) // at_once)) if len(own) else []
        seen = torch.zeros(len(targets), len(targets.classes), device=fabric.device)
        self.network.eval()
        with torch.no_grad():
            for rows, activations in self.val.activations.batches(pieces, view=0):
                # Not through the wrapper, whose processes would wait for an equal number of
                # batches.
                with fabric.autocast():
                    found = self.network(activations).float()
                seen[torch.from_numpy(rows).to(fabric.device)] = found
        everyone: Any = fabric.all_reduce(seen, reduce_op="sum")
        return np.asarray(everyone.cpu())

    def _validated(self) -> dict[str, float]:
        head, scores = self.head, self.scores()
        if not np.isfinite(scores).all():
            raise DivergedError(
                f"the head's scores of the validation images are not finite in "
                f"{self.settings.precision}; give `precision=fp32`, or check the head with "
                f"'bottleneck evaluate'"
            )
        metrics = score_metrics(head.link, scores, self.val.targets, head.temperature)
        return {"val_loss": metrics["log_loss"], "val_accuracy": metrics["accuracy"]}

    def _step_through(self, epoch: int) -> dict[str, float]:
        """Train one epoch; return its running loss and accuracy."""
        settings, total = self.settings, len(self.train.targets)
        # Each epoch has its own seeds, so that resuming needs no other random state.
        seeds = np.random.SeedSequence((settings.seed, epoch, self.fabric.global_rank))
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        order = np.random.default_rng([settings.seed, epoch]).permutation(total)
        batches = np.array_split(order, -(-total // settings.batch_size))
        pieces = [self._pieces(batch) for batch in batches]
        ready = self.train.activations.batches(list(chain(*pieces)), settings.view(epoch))
        sums = torch.zeros(2, dtype=torch.float64, device=self.fabric.device)
        done = (epoch - 1) * total
        self._report(done)
        self.network.train()
        for place, batch in enumerate(batches):
            step = (epoch - 1) * len(batches) + place
            factor = rate_factor(settings, step, settings.epochs * len(batches))
            # torch's schedulers would warn about a first step that fp16 skips.
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            self._step(ready, len(pieces[place]), len(batch), sums)
            if place % _STEPS_BETWEEN_CHECKS == 0 or place == len(batches) - 1:
                seen = self._checked(sums)
            done += len(batch)
            self._report(done)
        return {"loss": seen[0] / total, "accuracy": seen[1] / total}

    def _pieces(self, batch: np.ndarray) -> list[np.ndarray]:
        """Return a device's share of a batch in pieces, of at least one image, as all must step."""
        own = batch[self.fabric.global_rank :: self.fabric.world_size]
        own = own if len(own) else batch[:1]
        return np.array_split(own, min(self.settings.accumulate, len(own)))

    def _step(self, ready: Batches, pieces: int, images: int, sums: torch.Tensor) -> None:
        """Make one step with the next pieces; add to the sums of losses and of correct images."""
        fabric, settings, head = self.fabric, self.settings, self.head
        self._stepper.zero_grad()
        idle = fabric.global_rank >= images
        for piece in range(1, pieces + 1):
            rows, activations = next(ready)
            places = torch.from_numpy(rows)
            codes = self._codes[places].to(fabric.device, non_blocking=True)
            counts = self._counts[places].to(fabric.device, non_blocking=True)
            with fabric.no_backward_sync(self._module, enabled=piece < pieces):
                scores = self._module(activations)
                found = losses(
                    head.link, scores / head.temperature, codes, settings.label_smoothing
                )
                each = (found * counts).mean(dim=1) * (not idle)
                fabric.backward(each.sum() * (fabric.world_size / images))
            sums += torch.stack([each.detach().sum(), _right(scores, codes).sum() * (not idle)])
        if settings.clip < inf:
            fabric.clip_gradients(
                self._module, self._stepper, max_norm=settings.clip, error_if_nonfinite=False
            )
        self._stepper.step()

    def _checked(self, sums: torch.Tensor) -> list[float]:
        """Return sums over all devices, so that all detect divergence together."""
        everyone: Any = self.fabric.all_reduce(sums.clone(), reduce_op="sum")
        if not everyone.isfinite().all():
            raise DivergedError("the loss is not finite; give a lower `learning_rate`")
        return list(everyone.tolist())

    def _report(self, done: int) -> None:
        if self.progress:
            self.progress("finetune", done, self.settings.epochs * len(self.train.targets))


def _right(scores: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return which images are classified correctly, in all of their classes."""
    if codes.dim() > 1:
        return ((scores > 0) == codes).all(dim=1)
    return scores.argmax(dim=1) == codes


def make_optimizer(network: TunedNetwork, settings: FinetuneSettings) -> torch.optim.Optimizer:
    """Return an optimizer with a parameter group for the learning rate of each block.

    Parameters
    ----------
    network : TunedNetwork
        The network with the trained parameters.
    settings : FinetuneSettings
        Optimizer, learning rates and weight decay.

    Returns
    -------
    torch.optim.Optimizer
    """
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for parameter, depth in network.rates():
        share = 1.0 if depth is None else settings.backbone_lr_factor * settings.layer_decay**depth
        decay = settings.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((settings.learning_rate * share, decay), []).append(parameter)
    listed = [
        {"params": parameters, "lr": rate, "initial_lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]
    # Fused optimizers unscale gradients themselves, too late for clipping.
    fused = settings.precision != "fp16"
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(listed, fused=fused)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(listed, settings.learning_rate, momentum=_MOMENTUM, fused=fused)
    return torch.optim.RMSprop(listed)


def rate_factor(settings: FinetuneSettings, step: int, steps: int) -> float:
    """Return the factor of all learning rates in a step.

    Parameters
    ----------
    settings : FinetuneSettings
        The schedule and the warm-up.
    step : int
        Number of the step, from 0.
    steps : int
        Number of steps in all epochs.

    Returns
    -------
    float
        From 0 to 1.
    """
    rising = round(settings.warm_up * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    if settings.schedule == "constant":
        return 1.0
    return (1 + cos(pi * (step - rising) / max(1, steps - rising))) / 2


def losses(link: str, scores: torch.Tensor, codes: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Return losses of shape (n, 1), or (n, k) if images may have several classes.

    Parameters
    ----------
    link : str
        See `bottleneck.heads.scoring.link_of`.
    scores : torch.Tensor
        Shape (n, k), divided by the temperature.
    codes : torch.Tensor
        The class of each image, int64 of shape (n,), or bool of shape (n, k).
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
