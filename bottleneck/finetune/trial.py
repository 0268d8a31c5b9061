"""Measure time and memory of a few steps before the first epoch, and plan epochs to fit."""

import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Any

import torch

from bottleneck.errors import UsageError, counted
from bottleneck.extract import Progress
from bottleneck.extract.forecast import peak_memory
from bottleneck.finetune.checkpoints import Checkpoint
from bottleneck.finetune.loop import Training
from bottleneck.heads.training import DivergedError, State

__all__ = ["EpochForecast", "forecast_epochs"]

_FEWEST, _SECONDS = 3, 2.0
"""Steps of the warm-up, and at least as many timed ones; both end earlier after so many seconds."""
_SHARE = 20
"""One step of a training in so many is timed, if that is more."""
_VALIDATED = 4
"""Batches of validation images that are timed."""


@dataclass(frozen=True)
class EpochForecast:
    """What the epochs of a fine-tuning will take, as measured by a short trial.

    Attributes
    ----------
    epochs : int
        The maximum number of epochs: `FinetuneSettings.epochs`, or fewer that fit into `minutes`.
    done : int
        Number of epochs that an interrupted run has completed.
    steps : int
        Number of steps in an epoch.
    seconds_per_step, seconds_per_validation, seconds_per_checkpoint : float
        Wall time of a step, of scoring all validation images, and of writing the checkpoint.
    peak_memory : int or None
        Peak memory in bytes: on a GPU that of its tensors, on a CPU that of the process; None if
        the system does not report it. With several devices, of the first.
    on_gpu : bool
        Whether it is the GPU's.
    """

    epochs: int
    done: int
    steps: int
    seconds_per_step: float
    seconds_per_validation: float
    seconds_per_checkpoint: float
    peak_memory: int | None
    on_gpu: bool

    @property
    def seconds_per_epoch(self) -> float:
        """Wall time of an epoch, with its validation and its checkpoint."""
        others = self.seconds_per_validation + self.seconds_per_checkpoint
        return self.steps * self.seconds_per_step + others

    @property
    def seconds(self) -> float:
        """Wall time of all epochs that are left; early stopping may make it less."""
        return (self.epochs - self.done) * self.seconds_per_epoch

    def as_dict(self) -> dict[str, Any]:
        """Return the forecast in JSON types, with ``seconds_per_epoch``."""
        return {**asdict(self), "seconds_per_epoch": self.seconds_per_epoch}


def forecast_epochs(training: Training, state: State, checkpoint: Checkpoint) -> EpochForecast:
    """Train for a few steps on images of the first epoch, and plan the epochs; then undo the steps.

    Afterwards the weights, the statistics of batch normalization, the optimizer, and the states of
    random generators and of mixed precision are exactly those before.

    Parameters
    ----------
    training : Training
        A training before its first epoch, or one that was interrupted. Its schedule gets the
        planned number of epochs, unless it was interrupted, and has its plan.
    state : State
        Its progress.
    checkpoint : Checkpoint
        Its checkpoint.

    Returns
    -------
    EpochForecast
        The same in all processes, as measured by the first.

    Raises
    ------
    UsageError
        Not even one epoch fits into `minutes`.
    DataError, CacheError, RuntimeError, MemoryError
        As raised by a step.
    """
    fabric, settings = training.fabric, training.settings
    device, items = fabric.device, training.val.items
    if on_gpu := device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    report = training.progress or (lambda *_: None)
    steps = ceil(len(training.train.items) / settings.batch_size)
    first = min(len(items), _VALIDATED * settings.batch_size)
    with _undone(training):
        per_step = _seconds_per_step(training, steps * settings.epochs, report)
        began = time.perf_counter()
        training.scores(first)
        validating = (time.perf_counter() - began) * len(items) / first
        saving = checkpoint.seconds_to_save(training, state) if fabric.is_global_zero else 0.0
    memory = torch.cuda.max_memory_allocated(device) if on_gpu else peak_memory()
    if memory and not on_gpu:
        memory += training.train.bytes_to_hold
    found: EpochForecast = fabric.broadcast(
        EpochForecast(
            epochs=settings.epochs,
            done=len(state.history),
            steps=steps,
            seconds_per_step=round(per_step, 6),
            seconds_per_validation=round(validating, 6),
            seconds_per_checkpoint=round(saving, 6),
            peak_memory=memory,
            on_gpu=on_gpu,
        )
    )
    if settings.minutes is not None and not state.history:
        found = replace(found, epochs=_planned(found, settings.minutes))
        training.plan(found.epochs)
    return found


def _planned(found: EpochForecast, minutes: float) -> int:
    """Return how many epochs fit; raise a `UsageError` if none does."""
    epochs = int(60 * minutes / found.seconds_per_epoch)
    if epochs:
        return min(epochs, found.epochs)
    least = ceil(found.seconds_per_epoch / 6) / 10
    raise UsageError(
        f"`minutes={minutes:g}` is too short for one epoch, whose "
        f"{counted(found.steps, 'step')} and validation take about {found.seconds_per_epoch:.3g} "
        f"seconds here; give `minutes={least:g}` or more, or a later layer with `unfreeze`"
    )


def _seconds_per_step(training: Training, total: int, report: Progress) -> float:
    """Return the wall time of a step, without that of the first ones."""
    device, images = training.fabric.device, training.settings.batch_size
    wanted = max(_FEWEST, total // _SHARE)

    def timed(most: int, before: int) -> tuple[int, float]:
        began, number, seconds = time.perf_counter(), 0, 0.0
        while number < most and seconds < _SECONDS:
            report("trial", (before + number) * images, (_FEWEST + wanted) * images)
            next(steps)
            number += 1
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - began
        return number, seconds

    with closing(_endless(training)) as steps:
        before, _ = timed(_FEWEST, 0)
        number, seconds = timed(wanted, before)
    report("trial", (before + number) * images, (before + number) * images)
    return seconds / number


def _endless(training: Training) -> Generator[object]:
    """Repeat the first epoch, also where it diverges: its steps take the same time."""
    while True:
        try:
            yield from training.steps(1)
        except DivergedError:
            yield


@contextmanager
def _undone(training: Training) -> Iterator[None]:
    """Restore everything that steps change at the end, and report none of them."""
    network, optimizer, progress = training.network, training.optimizer, training.progress
    precision, device = training.fabric.strategy.precision, training.fabric.device
    tuned, scaler = network.tuned_state(), precision.state_dict()
    known = deepcopy(optimizer.state_dict())
    training.progress = None
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        optimizer.zero_grad()
        optimizer.load_state_dict(known)
        network.load_tuned(tuned)
        precision.load_state_dict(scaler)
        training.progress = progress
