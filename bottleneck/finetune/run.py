"""Fine-tune a network, from a fitted head to a model folder."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from bottleneck.advise import layer_to_train
from bottleneck.arguments import made
from bottleneck.augment import find_policy
from bottleneck.bases import find_devices, find_model
from bottleneck.bases.finetuned import read_finetuned
from bottleneck.bases.frozen import FrozenBase
from bottleneck.bases.splitting import Split, upper_part
from bottleneck.bases.weights import load_weights
from bottleneck.cache import Cache
from bottleneck.errors import (
    BottleneckError,
    MemoryShortError,
    UsageError,
    WrongTypeError,
    counted,
    first_line,
    is_out_of_memory,
)
from bottleneck.experiments import FineTuned
from bottleneck.extract import Progress
from bottleneck.extract.lanes import freed_memory_kept
from bottleneck.features import vectors
from bottleneck.finetune.checkpoints import Checkpoint
from bottleneck.finetune.data import Activations, CachedActivations, ImageActivations
from bottleneck.finetune.loop import Training
from bottleneck.finetune.network import TunedNetwork
from bottleneck.finetune.result import write_result
from bottleneck.finetune.start import Start, default_images, is_first_process, open_start
from bottleneck.finetune.trial import EpochForecast, forecast_epochs
from bottleneck.heads import Head, find_head
from bottleneck.heads.training import run_epochs
from bottleneck.images import ImageSet, RejectedImage
from bottleneck.records import single_source
from bottleneck.settings import FinetuneSettings

__all__ = ["Finetuned", "finetune_head"]

_TRIAL = 4
"""Number of images that are scored as a check before the first step."""
_TOLERANCE = 1e-3
"""Of these scores, relative to the largest, for another order of summation."""


@dataclass(frozen=True)
class Finetuned:
    """The result of fine-tuning.

    Attributes
    ----------
    folder : Path
        Folder of the model.
    head : Head
        The head in the folder; its `scores` include the history.
    train, val : int
        Numbers of training and validation images.
    trained : int
        Number of trained parameters, without those of the head.
    rejected : tuple of RejectedImage
        Images that could not be used.
    """

    folder: Path
    head: Head
    train: int
    val: int
    trained: int
    rejected: tuple[RejectedImage, ...]

    @property
    def gain(self) -> FineTuned | None:
        """The result beside that of the head at the start; None of a single validation image."""
        return FineTuned.of(str(self.folder), read_finetuned(self.folder))

    @property
    def diverged(self) -> int | None:
        """The epoch in which the loss became nan or inf, if any."""
        found: int | None = self.head.scores["diverged"]
        return found


def finetune_head(
    head: Head | str | Path,
    images: ImageSet | str | Path | None,
    cache: Cache | str | Path,
    folder: str | Path,
    settings: FinetuneSettings | None = None,
    *,
    weights: str | None = None,
    device: str = "auto",
    devices: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    watch: Callable[[Mapping[str, float]], None] | None = None,
    announce: Callable[[EpochForecast], None] | None = None,
    **options: Any,
) -> Finetuned:
    """Train the top of a head's base, or all of it, starting from the head; write a model folder.

    Training and validation images of the set are used, test images are not. A head that was fitted
    or selected on validation or test images is first fitted again without them,
    with ``C`` and the temperature chosen anew; the entry ``start_head`` of the new head's `scores`
    tells which head the result is compared with. The folder contains the head, with the training
    history, and the whole network as ``model.json`` and ``model.safetensors``, so that its path can
    be used as a model name. A checkpoint is written there after each epoch.

    Parameters
    ----------
    head : Head, str or Path
        The head that training starts from; or its folder, or its name in ``heads/``.
    images : ImageSet, str, Path or None
        Images of the head's classes, or their folder or table; the set is written to
        ``cache/sets/`` if it is not there yet. None means the images that the head was fitted on.
    cache : Cache, str or Path
        The cache of the image set, and of activations with `FinetuneSettings.from_cache`.
    folder : str or Path
        Folder of the result; a head in it is replaced.
    settings : FinetuneSettings, optional
        Hyperparameters; without `unfreeze`, training begins at the layer that the last verdict on
        the head's features names, see `bottleneck.advise.layer_to_train`.
    weights : str, optional
        Name or path of the base's weights, if they have moved.
    device : str
        As for `FrozenBase`; several GPUs each train on a share of every batch.
    devices : int, optional
        Number of CPU processes, or of GPUs, that share the work. Processes other than the first run
        the program's own command again.
    resume : bool
        Continue from the last checkpoint of an interrupted run in `folder`.
    progress : callable, optional
        Called with ``"check"``, ``"extract"``, ``"trial"`` or ``"finetune"``, the number of images
        done and their total.
    watch : callable, optional
        Called after each epoch with its entry in the history of `State`.
    announce : callable, optional
        Called before the first epoch with the time and memory that the epochs will take, see
        `bottleneck.finetune.trial.forecast_epochs`. Without it and without `minutes`, there is no
        trial.
    **options
        Fields of `FinetuneSettings`, such as ``unfreeze="layer4", epochs=5``, in place of
        `settings`.

    Returns
    -------
    Finetuned

    Raises
    ------
    WrongTypeError
        `head` is neither a head nor its name or folder.
    UnknownNameError
        The head does not exist.
    UsageError
        The head, layer, images or settings do not fit together, no verdict names a layer to train,
        the folder has other content, or not even one epoch fits into `minutes`.
    DataError
        The images are not sufficient, the head cannot be fitted again, or the folder cannot be
        written.
    MemoryShortError
        A batch does not fit into memory.
    """
    if isinstance(head, str | Path):
        head = find_head("heads", head)[1]
    if not isinstance(head, Head):
        raise WrongTypeError(
            f"`head` must be a Head, or a head's name or folder, got {type(head).__name__}"
        )
    settings, cache = made(FinetuneSettings, settings, options), Cache(cache)
    layer = settings.unfreeze or layer_to_train(cache, single_source(head.source))
    settings = replace(settings, unfreeze=layer)
    images = default_images(head, cache) if images is None else images
    if not isinstance(images, ImageSet):
        images = ImageSet.open(images, seed=settings.seed)
    checkpoint = Checkpoint(Path(folder))
    fabric = _fabric(device, devices, settings)
    with ExitStack() as stack:
        if is_first_process():
            stack.callback(checkpoint.forget)  # what ends before its first epoch leaves nothing
        start = open_start(head, images, settings, weights, device)
        start = start.with_images(cache, checkpoint, resume=resume, progress=progress)
        fabric.launch()
        stack.enter_context(_memory_watched(fabric.device, settings, start.split))
        stack.enter_context(torch.random.fork_rng())
        stack.enter_context(freed_memory_kept())
        training = _training(fabric, start, progress)
        state = checkpoint.load(training) if resume else training.started()
        forecast = None
        if fabric.broadcast(announce is not None or settings.minutes is not None):
            forecast = forecast_epochs(training, state, checkpoint)
            if fabric.is_global_zero and announce:
                announce(forecast)
        callbacks = [training.note]
        if fabric.is_global_zero:
            callbacks.append(partial(checkpoint.save, training))
            callbacks += [lambda state: watch(state.history[-1])] if watch else []
        state = run_epochs(training, state, training.settings, callbacks)
        training.network.load_tuned(state.best)
    if fabric.is_global_zero:
        write_result(checkpoint.result, start, training, state, cache=cache, forecast=forecast)
        checkpoint.remove()
    fabric.barrier()
    return Finetuned(
        folder=checkpoint.result,
        head=Head.load(folder),
        train=len(training.train.items),
        val=len(training.val.items),
        trained=sum(each.numel() for each, depth in training.network.rates() if depth is not None),
        rejected=start.chosen.rejected,
    )


def _fabric(device: str, devices: int | None, settings: FinetuneSettings) -> Fabric:
    """Return the Fabric that places training on devices, with its precision."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    if devices is not None and devices < 1:
        raise UsageError(f"`devices` must be at least 1, got {devices}")
    chosen = find_devices(device)
    kind = chosen[0].type
    if kind == "cpu" and settings.precision == "fp16":
        raise UsageError(
            "`precision=fp16` needs a GPU; give `precision=bf16` or `precision=fp32`, or another "
            "`device`"
        )
    if kind == "cuda" and devices is not None:
        chosen = find_devices(",".join(f"cuda:{number}" for number in range(devices)))
    several = devices or len(chosen)
    names: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
    return Fabric(
        accelerator=kind,
        devices=several if kind == "cpu" else [each.index for each in chosen],
        strategy="ddp" if several > 1 else "auto",
        precision=names[settings.precision],
    )


def _training(fabric: Fabric, start: Start, progress: Progress | None) -> Training:
    """Build the network, and add the images."""
    settings, lower = start.settings, start.lower(fabric.device)

    def activations(split: str) -> Activations:
        items = [item for item in start.chosen.items if item.split == split]
        if not start.banks:
            policy, transform = find_policy(settings.augment), start.base.transform
            return ImageActivations(items, transform, policy, lower, fabric.device)
        plain = split == "val" or not settings.augmented
        banks = {view: bank for view, bank in start.banks.items() if (view == 0) == plain}
        return CachedActivations(items, str(start.split.boundary), banks, fabric.device)

    return Training(
        fabric,
        _network(start, lower),
        settings,
        train=activations("train"),
        val=activations("val"),
        head=start.head,
        progress=progress if fabric.is_global_zero else None,
    )


def _network(start: Start, lower: FrozenBase | None) -> TunedNetwork:
    """Build the network; check that it scores images of noise as the head does, in fp32."""
    source, base, network = start.source, start.base, start.base.network
    _, weights = load_weights(find_model(source.model), base.settings.weights)
    tuned = TunedNetwork(
        upper_part(network, start.split, weights.load() | network.constants),
        start.head.to_module(),
        start.split,
        how=source.pool,
        axes=network.layers[source.layer].axes,
        freeze_batch_norm=start.settings.freeze_batch_norm,
    )
    if base.precision != "fp32":
        base = start.frozen(source.layer, "cpu", precision="fp32")
    if lower is not None and lower.precision != "fp32":
        lower = start.lower("cpu", "fp32")
    size, generator = (_TRIAL, 3, *base.transform.crop), torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    images = base.transform.normalise(pixels)
    (features,) = base(images).values()
    with torch.no_grad():
        activations = images if lower is None else next(iter(lower(images).values()))
        scores = tuned.eval()(activations.cpu().clone()).numpy()
    expected = start.head.decision_function(vectors(source, features.cpu().numpy()))
    gap = float(np.abs(expected - scores).max() / (np.abs(expected).max() or 1.0))
    if not gap <= _TOLERANCE:
        raise BottleneckError(
            f"the network to fine-tune does not reproduce the scores of its head (the difference "
            f"is {gap:.3g} of the largest score, and at most {_TOLERANCE:g} is allowed); this is "
            f"a bug in this package: please report it with the command"
        )
    return tuned


@contextmanager
def _memory_watched(
    device: torch.device, settings: FinetuneSettings, split: Split
) -> Iterator[None]:
    """Turn an out-of-memory error into advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        cacheable = bool(split.boundary) and not settings.from_cache
        endless = settings.augmented and settings.views is None
        helps = {
            "more pieces with `accumulate`": settings.accumulate < settings.batch_size,
            "a smaller `batch_size`": settings.batch_size > 1,
            "`precision=bf16`": settings.precision == "fp32",
            "`from_cache` `views=8`": cacheable and endless,
            "`from_cache`": cacheable and not endless,
            "a later layer with `unfreeze`": True,
        }
        options = [each for each, can_be_given in helps.items() if can_be_given]
        pieces = settings.accumulate
        raise MemoryShortError(
            f"a step with {counted(settings.batch_size, 'image')} in {counted(pieces, 'piece')} "
            f"does not fit into the memory of {device} ({first_line(error)}); give "
            f"{', or '.join(options)}"
        ) from error
