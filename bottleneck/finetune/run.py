"""Fine-tuning from a fitted head to a model folder."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

from bottleneck.augment import find_policy
from bottleneck.bases import find_devices, find_model
from bottleneck.bases.frozen import FrozenBase
from bottleneck.bases.splitting import Split, upper_part
from bottleneck.bases.weights import load_weights
from bottleneck.cache import Cache
from bottleneck.errors import MemoryShortError, UsageError, first_line, is_out_of_memory
from bottleneck.extract import Progress
from bottleneck.extract.lanes import freed_memory_kept
from bottleneck.features import vectors
from bottleneck.finetune.checkpoints import Checkpoint
from bottleneck.finetune.data import Activations, CachedActivations, ImageActivations
from bottleneck.finetune.loop import Labelled, State, Training
from bottleneck.finetune.network import TunedNetwork, check_start
from bottleneck.finetune.result import write_result
from bottleneck.finetune.start import (
    Prepared,
    Start,
    is_first_process,
    open_start,
    prepare,
)
from bottleneck.heads import Head
from bottleneck.images import ImageSet, RejectedImage
from bottleneck.labels import Targets
from bottleneck.settings import FinetuneSettings

__all__ = ["Finetuned", "finetune_head"]

_TRIAL = 4
"""Images that are scored before the first step."""


@dataclass(frozen=True)
class Finetuned:
    """What a fine-tuning has made.

    Attributes
    ----------
    folder : Path
        The model's.
    head : Head
        The one in it; its `scores` have the history.
    train, val : int
        Images trained on, and images validated on.
    trained : int
        Parameters of the network, without the head, that were trained.
    boundary : str or None
        Where the trained part begins to be computed apart; None at the image.
    rejected : tuple of RejectedImage
        Images that could not be used.
    """

    folder: Path
    head: Head
    train: int
    val: int
    trained: int
    boundary: str | None
    rejected: tuple[RejectedImage, ...]

    @property
    def diverged(self) -> int | None:
        """The epoch in which the loss was no finite number any more, if there was one."""
        found: int | None = self.head.scores["diverged"]
        return found


def finetune_head(
    head: Head,
    images: ImageSet,
    cache: Cache,
    folder: str | Path,
    settings: FinetuneSettings,
    *,
    weights: str | None = None,
    device: str = "auto",
    devices: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    watch: Callable[[Mapping[str, float]], None] | None = None,
) -> Finetuned:
    """Train the top of a head's base, or all of it, from the head on; write a model folder.

    The training and validation images of the set are used, its test images are not. The folder has
    the fitted head, with the history of the training, and the whole network as ``model.json`` and
    ``model.safetensors``, so that its path serves as a model's name. After each epoch a checkpoint
    is written there.

    Parameters
    ----------
    head : Head
        Whose weights become the top of the network.
    images : ImageSet
        Of the head's classes; written to ``cache/sets/`` if it is not there.
    cache : Cache
        For the image set, and for activations with `FinetuneSettings.from_cache`.
    folder : str or Path
        Of the result; a head that is in it is replaced.
    settings : FinetuneSettings
        How it is trained.
    weights : str, optional
        Where the base's weights are now, if not where they were.
    device : str
        As for `FrozenBase`: with several GPUs, each trains on its share of every batch.
    devices : int, optional
        How many processes on the processor, or GPUs, share the work. Processes other than the first
        run the program's own command again.
    resume : bool
        Go on where an interrupted run in `folder` has written its last checkpoint.
    progress : callable, optional
        Called with ``"check"``, ``"extract"`` or ``"finetune"``, the images done and the images to
        do.
    watch : callable, optional
        Called after each epoch with what `State` has of it in its history.

    Returns
    -------
    Finetuned

    Raises
    ------
    UsageError
        The head, layer, images or settings do not go together, or the folder is something else.
    DataError
        The images do not suffice, or the folder cannot be written.
    MemoryShortError
        A step does not fit into memory.
    """
    target = Path(folder)
    checkpoint = Checkpoint.of(target)
    fabric = _fabric(device, devices, settings)
    start = open_start(head, settings, weights=weights, device=device)
    with ExitStack() as stack:
        if is_first_process():
            stack.callback(checkpoint.forget)  # what ends before its first epoch leaves nothing
        ready = prepare(
            start, images, cache, checkpoint, device=device, resume=resume, progress=progress
        )
        fabric.launch()
        stack.enter_context(_memory_watched(fabric.device, settings, start.split))
        stack.enter_context(torch.random.fork_rng())
        stack.enter_context(freed_memory_kept())
        training = _training(fabric, start, ready, progress)
        state = _trained(training, checkpoint, watch, resume=resume)
        training.network.load_tuned(state.best)
        scores = training.scores()
    if fabric.is_global_zero:
        seen = {item.digest for item in ready.chosen.items}
        write_result(target, start, training, state, scores=scores, images=ready.images, seen=seen)
        checkpoint.remove()
    fabric.barrier()
    return Finetuned(
        folder=target,
        head=Head.load(target),
        train=len(training.train.targets),
        val=len(training.val.targets),
        trained=sum(
            each.numel() for _, each, depth in training.network.rates() if depth is not None
        ),
        boundary=start.split.boundary,
        rejected=(*ready.images.rejected, *ready.chosen.rejected),
    )


def _fabric(device: str, devices: int | None, settings: FinetuneSettings) -> Fabric:
    """Return what places the training on devices, in numbers of a precision."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    chosen = find_devices(device)
    kind = chosen[0].type
    if devices is not None and devices < 1:
        raise UsageError(f"{devices} devices cannot train; give a number from 1 on with `devices`")
    if kind == "cpu" and settings.precision == "16-mixed":
        raise UsageError(
            "16-mixed is a precision of GPUs; give `precision=bf16-mixed` or 32-true, or another "
            "`device`"
        )
    places: int | list[int] = devices or 1
    if kind == "cuda":
        if devices is not None:
            chosen = find_devices(",".join(f"cuda:{number}" for number in range(devices)))
        places = [each.index for each in chosen]
    several = devices or len(chosen)
    return Fabric(
        accelerator=kind,
        devices=places,
        strategy="ddp" if several > 1 else "auto",
        precision=settings.precision,
    )


def _training(fabric: Fabric, start: Start, ready: Prepared, progress: Progress | None) -> Training:
    """Put the network together, see that it scores as the head does, and join the images."""
    lower = ready.lower
    if lower is not None and lower.devices != (fabric.device,):
        lower = start.lower(start.precision, fabric.device)
    network = _network(start)
    _check_start(start, network, lower)
    parts = {
        split: _labelled(replace(ready, lower=lower), start, split, fabric.device)
        for split in ("train", "val")
    }
    return Training(
        fabric,
        network,
        start.settings,
        **parts,
        link=start.head.link,
        temperature=start.head.temperature,
        progress=progress if fabric.is_global_zero else None,
    )


def _network(start: Start) -> TunedNetwork:
    source, network = start.source, start.base.network
    weights = load_weights(find_model(source.model), start.weights)
    upper = upper_part(network, start.split, weights.state | network.constants)
    axes = network.layers[source.layer].axes
    how = "none" if axes == "C" else source.pool
    return TunedNetwork(
        upper,
        start.head.to_module(),
        start.split,
        how=how,
        axes=axes,
        batch_statistics=start.settings.batch_statistics,
    )


def _check_start(start: Start, network: TunedNetwork, lower: FrozenBase | None) -> None:
    """Score some images of noise before the first step, by the head and by the network, in fp32."""
    generator = torch.Generator().manual_seed(0)
    size = (_TRIAL, 3, *start.base.transform.crop)
    pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    images = start.base.transform.normalise(pixels)
    base = start.base if start.base.precision == "fp32" else start.exact()
    if lower is not None and lower.precision != "fp32":
        lower = start.lower("fp32", "cpu")
    (features,) = base(images).values()
    with torch.no_grad():
        activations = images if lower is None else next(iter(lower(images).values()))
        scores = network.eval()(activations.cpu().clone()).numpy()
    check_start(start.head, vectors(start.source, features.cpu().numpy()), scores)


def _labelled(ready: Prepared, start: Start, split: str, device: torch.device) -> Labelled:
    """Return the images of a split with their labels."""
    items = [item for item in ready.chosen.items if item.split == split]
    head = start.head
    labels = np.array([item.label for item in items])
    activations: Activations
    if ready.banks and start.split.boundary:
        plain = split == "val" or not start.settings.augmented
        banks = {view: bank for view, bank in ready.banks.items() if (view == 0) == plain}
        digests = [item.digest for item in items]
        activations = CachedActivations(digests, start.split.boundary, banks, device)
    else:
        policy = find_policy(start.settings.augment)
        activations = ImageActivations(items, start.base.transform, policy, ready.lower, device)
    return Labelled(
        activations,
        Targets.among(labels, head.classes, multilabel=head.multilabel),
        np.array([item.weight for item in items]),
    )


def _trained(
    training: Training,
    checkpoint: Checkpoint,
    watch: Callable[[Mapping[str, float]], None] | None,
    *,
    resume: bool,
) -> State:
    """Train until the settings say that it is over; keep a checkpoint after each epoch."""
    state = checkpoint.load(training) if resume else training.started()
    while not state.is_over(training.settings):
        state = training.epoch(state)
        if training.fabric.is_global_zero and state.diverged is None:
            checkpoint.save(training, state)
            if watch:
                watch(state.history[-1])
    return state


@contextmanager
def _memory_watched(
    device: torch.device, settings: FinetuneSettings, split: Split
) -> Iterator[None]:
    """Say what helps where memory does not suffice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        options = []
        if settings.accumulate < settings.batch_size:
            options.append("more pieces with `accumulate`")
        if settings.batch_size > 1:
            options.append("a smaller `batch_size`")
        if settings.precision == "32-true":
            options.append("`precision=bf16-mixed`")
        if split.boundary and not settings.from_cache:
            endless = settings.augmented and settings.views is None
            options.append("`from_cache` `views=8`" if endless else "`from_cache`")
        options.append("a later layer with `unfreeze`")
        pieces = settings.accumulate
        raise MemoryShortError(
            f"a step with {settings.batch_size} images in {pieces} piece{'s' * (pieces > 1)} does "
            f"not fit into the memory of {device} ({first_line(error)}); give "
            f"{', or '.join(options)}"
        ) from error
