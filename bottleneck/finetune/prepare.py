"""What is settled before the first step: the images, and the activations in the cache."""

import os
from dataclasses import dataclass
from pathlib import Path

from bottleneck.bases.frozen import FrozenBase
from bottleneck.cache import Bank, Cache
from bottleneck.errors import UsageError
from bottleneck.extract import Progress, fill_banks, usable_images
from bottleneck.fields import made
from bottleneck.finetune.checkpoints import Checkpoint
from bottleneck.finetune.data import check_images
from bottleneck.finetune.start import PRECISIONS, Start, check_classes, check_set, images_to_train
from bottleneck.heads import head_names
from bottleneck.images import ImageSet, RejectedImage
from bottleneck.settings import FinetuneSettings, StoreSettings

__all__ = ["Prepared", "is_first_process", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """What there is to train with.

    Attributes
    ----------
    images : ImageSet
        The whole set.
    chosen : ImageSet
        The images to train and to validate on.
    lower : FrozenBase or None
        The frozen part, if there is one.
    banks : dict of int to Bank
        View to where the boundary's activations are; empty where they are not read from the cache.
    """

    images: ImageSet
    chosen: ImageSet
    lower: FrozenBase | None
    banks: dict[int, Bank]

    @property
    def rejected(self) -> tuple[RejectedImage, ...]:
        """The images that cannot be used."""
        return (*self.images.rejected, *self.chosen.rejected)


def is_first_process() -> bool:
    """Whether this process was not started by another one that trains as well."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def prepare(
    start: Start,
    images: ImageSet,
    cache: Cache,
    checkpoint: Checkpoint,
    settings: FinetuneSettings,
    *,
    device: str,
    resume: bool,
    progress: Progress | None,
) -> Prepared:
    """Choose the images, look at each once, and fill the cache if it is to be read from.

    The first process notes in the checkpoint's folder what it has chosen, for the others and for
    who resumes; see `bottleneck.finetune.finetune` for what is given and raised.
    """
    first = is_first_process()
    if first:
        _check_folder(checkpoint.folder.parent, checkpoint, resume=resume)
    looked_at = first and not check_set(images, cache)
    if looked_at:
        images = _usable(images, start, progress)
        images.write_csv(cache.set_file(images.name))
    bound = start.bound_to(images, settings.augment)
    if first and resume:
        checkpoint.check(settings, bound)
    new = first and not resume
    if new:
        chosen = images_to_train(images, start.head, settings)
        if not settings.from_cache and not looked_at:
            chosen = _usable(chosen, start, progress)
    else:
        chosen = checkpoint.images()
    lower = start.lower(PRECISIONS[settings.precision], device)
    banks: dict[int, Bank] = {}
    if settings.from_cache and lower is not None:
        banks, bad = _fill(lower, chosen, cache, settings, progress)
        chosen = usable_images(chosen, bad)
    if new:
        check_classes(chosen, start.head)
        checkpoint.begin(settings, bound, chosen)
    return Prepared(images, chosen, lower, banks)


def _check_folder(folder: Path, checkpoint: Checkpoint, *, resume: bool) -> None:
    if resume:
        return
    checkpoint.forget()
    if checkpoint.exists:
        raise UsageError(
            f"an unfinished run is in {str(folder)!r}; go on with `resume`, or remove "
            f"{str(checkpoint.folder)!r} to begin anew"
        )
    empty = folder.is_dir() and not any(folder.iterdir())
    if os.path.lexists(folder) and not empty and folder.name not in head_names(folder.parent):
        raise UsageError(
            f"{str(folder)!r} is there and is no head; choose another name with `name`"
        )


def _usable(images: ImageSet, start: Start, progress: Progress | None) -> ImageSet:
    """Look at each image, and leave out those that cannot be used."""
    return usable_images(images, check_images(start.base.transform, images.items, progress))


def _fill(
    lower: FrozenBase,
    chosen: ImageSet,
    cache: Cache,
    settings: FinetuneSettings,
    progress: Progress | None,
) -> tuple[dict[int, Bank], dict[str, str]]:
    """Have the cache hold the boundary's activations; return where, and what could not be used."""
    (layer,) = lower.layers
    options = {"views": settings.views or 0, "augment": settings.augment, "dtype": settings.dtype}
    stored = made(StoreSettings, None, options)
    filling = fill_banks(chosen, lower, cache, stored, progress=progress)
    banks = {view: cache.named(plan.banks[layer]) for plan in filling.plans for view in plan.views}
    return banks, filling.bad
