"""The steps of fine-tuning: batches in pieces over devices, validation, and learning rates."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from math import cos, inf, pi
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from bottleneck.finetune.data import Activations, Batches
from bottleneck.finetune.mixing import mixed
from bottleneck.finetune.network import TunedNetwork, make_optimizer
from bottleneck.heads import Head
from bottleneck.heads.choosing import Choice, deal_groups
from bottleneck.heads.training import DivergedError, State, are_right, losses, sample_weights
from bottleneck.images import groups_of
from bottleneck.labels import Targets
from bottleneck.settings import FinetuneSettings

__all__ = ["Training", "rate_factor"]

_STEPS_BETWEEN_CHECKS = 20


@dataclass
class Training:
    """A network, its optimizer, and its images; see `bottleneck.heads.training.Learner`.

    Attributes
    ----------
    fabric : Fabric
        A launched Fabric.
    network : TunedNetwork
        The network before the first step.
    settings : FinetuneSettings
        Hyperparameters.
    train, val : Activations
        Training and validation images.
    head : Head
        The head before the first step; its link turns scores into probabilities.
    progress : callable, optional
        Called with ``"finetune"``, the number of images trained on so far and the maximum.
    targets : Targets
        Labels of the validation images.
    choice : Choice
        The choice of the epoch.
    """

    fabric: Fabric
    network: TunedNetwork
    settings: FinetuneSettings
    train: Activations
    val: Activations
    head: Head
    progress: Callable[..., None] | None = None
    optimizer: torch.optim.Optimizer = field(init=False)
    targets: Targets = field(init=False)
    choice: Choice = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = make_optimizer(self.network, self.settings)
        self._module, self._stepper = self.fabric.setup(self.network, self.optimizer)
        own, self.targets = self._targets(self.train), self._targets(self.val)
        weights = np.array([item.weight for item in self.train.items])
        scaled = sample_weights(own, weights, balanced=self.settings.balanced)
        self._weights = scaled.to(self.fabric.device)
        self._codes = torch.from_numpy(own.codes).to(self.fabric.device)
        group_of = groups_of(self.val.items)
        groups = np.array([group_of.get(item.digest, item.digest) for item in self.val.items])
        parts = deal_groups(groups, targets=self.targets)
        self.choice = Choice(
            self.head.link,
            self.targets,
            parts,
            margins=True,  # the temperature is fitted again, so that a too sure network is no worse
            temperature=self.head.temperature,
            cautious=groups,
        )

    def _targets(self, images: Activations) -> Targets:
        labels, head = np.array([item.label for item in images.items]), self.head
        return Targets.among(labels, head.classes, multilabel=head.multilabel)

    def weights(self) -> dict[str, torch.Tensor]:
        """As `Learner.weights`."""
        return self.network.tuned_state()

    def started(self) -> State:
        """Return the state before the first step.

        Raises
        ------
        DataError
            Some scores are not finite.
        """
        return State(self.validated()[0], self.weights())

    def note(self, state: State) -> None:
        """Add the head's last learning rate and the seconds of an epoch to its row."""
        state.history[-1] |= {
            "learning_rate": max(group["lr"] for group in self.optimizer.param_groups),
            "seconds": round(time.monotonic() - self._began, 3),
        }

    def plan(self, epochs: int) -> None:
        """Train for this number of epochs, at most, with a schedule of that length."""
        self.settings = replace(self.settings, epochs=epochs)

    def scores(self, first: int | None = None) -> np.ndarray:
        """Return the scores of the first validation images, or of all, float32 of shape (n, k)."""
        fabric, settings, targets = self.fabric, self.settings, self.targets
        at_once = max(1, settings.batch_size // (settings.accumulate * fabric.world_size))
        own = np.arange(len(targets))[:first][fabric.global_rank :: fabric.world_size]
        pieces = np.array_split(own, -(-len(own) // at_once)) if len(own) else []
        seen = torch.zeros(len(targets), len(targets.classes), device=fabric.device)
        self.network.eval()
        with torch.no_grad():
            for rows, activations in self.val.batches(pieces, view=0):
                # Not through the wrapper, whose processes would wait for an equal number of
                # batches.
                with fabric.autocast():
                    found = self.network(activations).float()
                seen[torch.from_numpy(rows).to(fabric.device)] = found
        everyone: Any = fabric.all_reduce(seen, reduce_op="sum")
        return np.asarray(everyone.cpu())

    def validated(self) -> tuple[dict[str, float], bool]:
        """As `Learner.validated`; the loss is that at the temperature with the lowest one."""
        scores = self.scores()
        if not np.isfinite(scores).all():
            raise DivergedError(
                f"the head's scores of the validation images are not finite in "
                f"{self.settings.precision}; give `precision=fp32`, or check the head with "
                f"'bottleneck evaluate'"
            )
        best, metrics = self.choice.offer(scores), self.choice.metrics(scores)
        return {"val_loss": metrics["log_loss"], "val_accuracy": metrics["accuracy"]}, best

    def step_through(self, epoch: int) -> dict[str, float]:
        """As `Learner.step_through`."""
        *_, (loss, right) = self.steps(epoch)
        total = len(self.train.items)
        return {"loss": loss / total, "accuracy": right / total}

    def steps(self, epoch: int) -> Iterator[list[float]]:
        """Make the steps of an epoch.

        Parameters
        ----------
        epoch : int
            Number of the epoch, from 1 on.

        Yields
        ------
        list of float
            After each step, the sum of losses and the number of correct images so far, as of the
            last check.

        Raises
        ------
        DivergedError
            A loss is not finite.
        """
        settings, total = self.settings, len(self.train.items)
        self._began = time.monotonic()
        # Each epoch has its own seeds, so that resuming needs no other random state.
        seeds = np.random.SeedSequence((settings.seed, epoch, self.fabric.global_rank))
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        order = np.random.default_rng([settings.seed, epoch]).permutation(total)
        batches = np.array_split(order, -(-total // settings.batch_size))
        pieces = [self._pieces(batch) for batch in batches]
        ready = self.train.batches(list(chain(*pieces)), settings.view(epoch))
        sums = torch.zeros(2, dtype=torch.float64, device=self.fabric.device)
        done = (epoch - 1) * total
        self.network.train()
        for place, batch in enumerate(batches):
            self._report(done)
            step = (epoch - 1) * len(batches) + place
            factor = rate_factor(settings, step, settings.epochs * len(batches))
            # torch's schedulers would warn about a first step that fp16 skips.
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            self._step(ready, len(pieces[place]), len(batch), sums, (epoch, place))
            if place % _STEPS_BETWEEN_CHECKS == 0 or place == len(batches) - 1:
                checked = self._checked(sums)
            done += len(batch)
            yield checked
        self._report(done)

    def _pieces(self, batch: np.ndarray) -> list[np.ndarray]:
        """Return a device's share of a batch in pieces, of at least one image, as all must step."""
        own = batch[self.fabric.global_rank :: self.fabric.world_size]
        own = own if len(own) else batch[:1]
        return np.array_split(own, min(self.settings.accumulate, len(own)))

    def _step(
        self, ready: Batches, pieces: int, images: int, sums: torch.Tensor, step: tuple[int, int]
    ) -> None:
        """Make one step with the next pieces; add to the sums of losses and of correct images."""
        fabric, settings, head = self.fabric, self.settings, self.head
        self._stepper.zero_grad()
        idle = fabric.global_rank >= images
        for piece in range(1, pieces + 1):
            rows, activations = next(ready)
            seed = (settings.seed, *step, fabric.global_rank, piece)
            activations, parts = mixed(activations, rows, settings, seed)
            with fabric.no_backward_sync(self._module, enabled=piece < pieces):
                scores = self._module(activations)
                scaled = scores / head.temperature
                found: Any = sum(share * self._losses(scaled, own) for share, own in parts)
                each = found * (not idle)
                fabric.backward(each.sum() * (fabric.world_size / images))
            right = are_right(scores, self._codes[parts[0][1]])
            sums += torch.stack([each.detach().sum(), right.sum() * (not idle)])
        if settings.clip < inf:
            fabric.clip_gradients(
                self._module, self._stepper, max_norm=settings.clip, error_if_nonfinite=False
            )
        self._stepper.step()

    def _losses(self, scores: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """Return the weighted losses of shape (n,) of scores for the labels of some images."""
        smoothing = self.settings.label_smoothing
        found = losses(self.head.link, scores, self._codes[rows], smoothing)
        return (found * self._weights[rows]).mean(dim=1)

    def _checked(self, sums: torch.Tensor) -> list[float]:
        """Return sums over all devices, so that all detect divergence together."""
        everyone: Any = self.fabric.all_reduce(sums.clone(), reduce_op="sum")
        if not everyone.isfinite().all():
            raise DivergedError("the loss is not finite; give a lower `learning_rate`")
        return list(everyone.tolist())

    def _report(self, done: int) -> None:
        if self.progress:
            self.progress("finetune", done, self.settings.epochs * len(self.train.items))


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
