"""What is settled before the first step: the head, its base, the images and their features."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bottleneck.augment import find_policy
from bottleneck.bases.frozen import FrozenBase
from bottleneck.bases.splitting import ALL, Split, split_network
from bottleneck.cache import Bank, Cache
from bottleneck.errors import DataError, UsageError
from bottleneck.extract import Progress, fill_banks, usable_images
from bottleneck.fields import made
from bottleneck.finetune.checkpoints import Checkpoint
from bottleneck.finetune.data import check_images
from bottleneck.heads import Head, head_names
from bottleneck.images import ImageSet
from bottleneck.predict import load_base
from bottleneck.records import FeatureSource, known_source
from bottleneck.settings import FinetuneSettings, StoreSettings

__all__ = [
    "Prepared",
    "Start",
    "default_images",
    "fill_split",
    "is_first_process",
    "open_start",
    "prepare",
]

_PRECISIONS = {"32-true": "fp32", "bf16-mixed": "bf16", "16-mixed": "fp16"}
"""Fabric's name of a precision, to that in which the frozen part computes beside it."""


@dataclass(frozen=True)
class Start:
    """What a fine-tuning starts from.

    Attributes
    ----------
    head : Head
        Whose weights become the top.
    source : FeatureSource
        The features that it was fitted on.
    base : FrozenBase
        The base of these.
    split : Split
        Of its network.
    weights : str
        The base's, as `FrozenBase` takes them.
    settings : FinetuneSettings
        How it is fine-tuned.
    """

    head: Head
    source: FeatureSource
    base: FrozenBase
    split: Split
    weights: str
    settings: FinetuneSettings

    @property
    def precision(self) -> str:
        """That in which the frozen part computes."""
        return _PRECISIONS[self.settings.precision]

    def lower(self, precision: str, device: Any) -> FrozenBase | None:
        """Return the base cut at the boundary, if that is not the image itself."""
        if self.split.boundary is None:
            return None
        exact = self.base.transform.exact_resize
        return self._frozen(self.split.boundary, precision, device, exact_resize=exact)

    def exact(self) -> FrozenBase:
        """Return the base as the head has it, in float32."""
        return self._frozen(self.source.layer, "fp32", "cpu", pool=self.source.stored_pool)

    def _frozen(self, layer: str, precision: str, device: Any, **options: Any) -> FrozenBase:
        options = {**self.source.adjustments, **options, "weights": self.weights}
        return FrozenBase(self.source.model, [layer], precision=precision, device=device, **options)

    def bound_to(self, images: ImageSet) -> dict[str, Any]:
        """Return what a run cannot be resumed without, as JSON holds it."""
        return {
            "head": {key: self.head.as_dict()[key] for key in ("clf", "classes", "temperature")},
            "base": self.source.fingerprint,
            "image set": {name: images.digest_of(name) for name in ("train", "val")},
            "augmentation": find_policy(self.settings.augment).as_dict(),
        }


def open_start(
    head: Head, settings: FinetuneSettings, *, weights: str | None = None, device: str = "auto"
) -> Start:
    """Load a head's base and divide its network.

    Raises
    ------
    UsageError
        The head, or the layer to unfreeze, is none that training could start from.
    DataError, WeightsError
        As `bottleneck.predict.load_base` does.
    """
    source = known_source(head.source)
    if head.clf == "knn":
        raise UsageError(
            "a knn head has no weights that could be trained; fit another with 'bottleneck "
            "fit-head --clf softmax'"
        )
    if not source.precision:
        raise UsageError(
            f"the head was fitted on features of {source.model!r} that were imported, and whose "
            f"network is not known; extract features here, and fit a head on those"
        )
    if source.adjustments.get("keep_aspect"):
        raise UsageError(
            "the head's base takes images of any proportions, which do not go into batches; "
            "extract without `keep_aspect`, and fit a head on that"
        )
    base = load_base(head, weights=weights, device=device)
    split = split_network(base.network, settings.unfreeze, source.layer)
    if settings.from_cache and split.boundary is None:
        lowest = "" if settings.unfreeze == ALL else f" from {settings.unfreeze!r} on"
        raise UsageError(
            f"all layers of {source.model}{lowest} are to be trained, so that there are no frozen "
            f"activations to cache; leave `from_cache` out, or name a later layer with `unfreeze`"
        )
    return Start(head, source, base, split, weights or source.weights, settings)


def _check_set(images: ImageSet, cache: Cache) -> bool:
    """Return whether the cache knows an image set.

    Raises
    ------
    UsageError
        It knows another one by that name.
    """
    file = cache.set_file(images.name)
    if not file.exists():
        return False
    if ImageSet.read_csv(file).digest_of() != images.digest_of():
        raise UsageError(
            f"the cache has an image set {images.name!r} with other images, labels or splits; give "
            f"this one another name with `image_set`"
        )
    return True


def _images_to_train(images: ImageSet, start: Start) -> ImageSet:
    """Return the images to train on and those to validate on; no others.

    Raises
    ------
    DataError
        There are none of either, or of other classes than the head's.
    UsageError
        Some are to be held out although there are validation images.
    """
    settings = start.settings
    if not images.labelled:
        raise DataError(
            f"image set {images.name!r} has no labels; expected those of the head's classes: give "
            f"one folder per class, or a manifest with labels, with `data`"
        )
    train = tuple(item for item in images.items if item.split == "train" and item.weight > 0)
    val = tuple(item for item in images.items if item.split == "val")
    if not train:
        raise DataError(
            f"image set {images.name!r} has no train images; expected some to fine-tune on: add a "
            f"train folder"
        )
    if not val and settings.val_share is None:
        raise DataError(
            f"image set {images.name!r} has no validation images, which say when to stop; add a "
            f"val folder, or hold out some of the training images with `val_share=0.2`"
        )
    if val and settings.val_share is not None:
        raise UsageError(
            f"image set {images.name!r} has {len(val)} validation images already; leave "
            f"`val_share` out"
        )
    _check_classes(replace(images, items=train + val), start.head)
    if settings.val_share is not None:
        split = replace(images, items=train).with_splits(
            test_share=settings.val_share, seed=settings.seed
        )
        held = {"test": "val", "train": "train"}
        train = tuple(replace(item, split=held[item.split or ""]) for item in split.items)
    return replace(images, items=train + val, rejected=(), split_seed=None)


def _check_classes(images: ImageSet, head: Head) -> None:
    """Raise `DataError` unless images are of the classes of a head."""
    several = images.multilabel and not head.multilabel
    if set(images.classes) == set(head.classes) and not several:
        return
    raise DataError(
        f"the images of {images.name!r} are of the classes {', '.join(images.classes)}"
        f"{', several at a time' if several else ''}; expected those of the head, "
        f"{', '.join(head.classes)}: fit a head on this set first, or give the head's own images"
    )


def default_images(head: Head, cache: Cache) -> ImageSet:
    """Return the image set that a head was fitted on.

    Raises
    ------
    DataError
        The cache does not have it.
    """
    name = known_source(head.source).image_set
    file: Path = cache.set_file(name)
    if not file.exists():
        raise DataError(
            f"no image set {name!r} in the cache folder {str(cache.root)!r}; name the cache that "
            f"the head was fitted on with `cache`, or give the images with `data`"
        )
    return ImageSet.read_csv(file)


def fill_split(head: Head, cache: Cache, split: str, *, progress: Progress | None = None) -> None:
    """Compute what the cache lacks of the features that a head is to be evaluated on.

    Parameters
    ----------
    head : Head
        Of a fine-tuned model.
    cache : Cache
        With the head's image set.
    split : str
        ``test``, ``val`` or ``train``.
    progress : callable, optional
        As for `bottleneck.extract.extract_features`.

    Raises
    ------
    DataError
        An image cannot be read any more.
    """
    source = known_source(head.source)
    file = cache.set_file(source.image_set)
    if not file.exists():
        return  # who reads the features says so
    images = ImageSet.read_csv(file)
    items = tuple(item for item in images.items if item.split == split)
    if not items:
        return
    base, settings = load_base(head), made(StoreSettings, None, {"dtype": source.dtype})
    chosen = replace(images, items=items)
    bad = fill_banks(chosen, base, cache, settings, progress=progress).bad
    for item in items:
        if item.digest in bad:
            raise DataError(
                f"{len(bad)} of the {split} images cannot be used any more, first {item.path!r} "
                f"({bad[item.digest]}); restore them, or give the images as they are now to "
                f"'bottleneck finetune --data'"
            )


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


def is_first_process() -> bool:
    """Whether this process was not started by another one that trains as well."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def prepare(
    start: Start,
    images: ImageSet,
    cache: Cache,
    checkpoint: Checkpoint,
    *,
    device: str,
    resume: bool,
    progress: Progress | None,
) -> Prepared:
    """Choose the images, look at each once, and fill the cache if it is to be read from.

    The first process notes in the checkpoint's folder what it has chosen, for the others and for
    who resumes; see `bottleneck.finetune.finetune_head` for what is given and raised.
    """
    settings, first = start.settings, is_first_process()
    new = first and not resume
    if new:
        _check_folder(checkpoint)
    looked_at = first and not _check_set(images, cache)
    if looked_at:
        images = _usable(images, start, progress)
        images.write_csv(cache.set_file(images.name))
    bound = start.bound_to(images)
    if first and resume:
        checkpoint.check(settings, bound)
    if new:
        chosen = _images_to_train(images, start)
        if not settings.from_cache and not looked_at:
            chosen = _usable(chosen, start, progress)
    else:
        chosen = checkpoint.images()
    lower = start.lower(start.precision, device)
    banks: dict[int, Bank] = {}
    if settings.from_cache and lower is not None:
        stored = StoreSettings(
            views=settings.views or 0, augment=settings.augment, dtype=settings.dtype
        )
        filling = fill_banks(chosen, lower, cache, stored, progress=progress)
        for plan in filling.plans:
            banks |= dict.fromkeys(plan.views, cache.named(plan.banks[lower.layers[0]]))
        chosen = usable_images(chosen, filling.bad)
    if new:
        _check_classes(chosen, start.head)
        checkpoint.begin(settings, bound, chosen)
    return Prepared(images, chosen, lower, banks)


def _check_folder(checkpoint: Checkpoint) -> None:
    """Refuse to begin where there is an unfinished run, or something that is no head."""
    folder = checkpoint.folder.parent
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
