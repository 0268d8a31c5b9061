"""Everything decided before the first step: the head, its base, the images and their features."""

import os
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from bottleneck.augment import find_policy
from bottleneck.bases import Transform
from bottleneck.bases.frozen import FrozenBase
from bottleneck.bases.splitting import Split, split_network
from bottleneck.cache import Bank, Cache
from bottleneck.errors import BadImageError, DataError, UsageError
from bottleneck.extract import Progress, fill_banks, preprocess, usable_images
from bottleneck.features import is_known
from bottleneck.finetune.checkpoints import Checkpoint, PlanRecord
from bottleneck.finetune.images import check_classes, head_without, images_to_train
from bottleneck.finetune.mixing import check_mix
from bottleneck.heads import Head, check_head_folder
from bottleneck.heads.bases import load_base
from bottleneck.images import ImageItem, ImageSet, in_threads, read_file
from bottleneck.records import FeatureSource, single_source
from bottleneck.settings import FinetuneSettings, StoreSettings

__all__ = ["Start", "default_images", "is_first_process", "open_start"]


@dataclass(frozen=True)
class Start:
    """The start of fine-tuning.

    Attributes
    ----------
    given : Head
        The given head.
    settings : FinetuneSettings
        Hyperparameters.
    base : FrozenBase
        The base of the head's features.
    split : Split
        The layers that are trained.
    images : ImageSet
        The whole image set.
    chosen : ImageSet
        The images to train and to validate on.
    banks : dict of int to Bank
        View number to the bank of the boundary's activations; empty without `from_cache`.
    refitted : Head or None
        The head fitted again without validation and test images, if the given one had seen some.
    """

    given: Head
    settings: FinetuneSettings
    base: FrozenBase
    split: Split
    images: ImageSet
    chosen: ImageSet
    banks: dict[int, Bank]
    refitted: Head | None = None

    @property
    def head(self) -> Head:
        """The head that training starts from."""
        return self.refitted or self.given

    @property
    def source(self) -> FeatureSource:
        """The features that the head was fitted on."""
        return single_source(self.head.source)

    def lower(self, device: str | torch.device, precision: str | None = None) -> FrozenBase | None:
        """Return the frozen part of the network; None if the first layer is trained."""
        if self.split.boundary is None:
            return None
        precision = precision or self.settings.precision
        return self.frozen(self.split.boundary, device, precision=precision, pool="none")

    def frozen(self, layer: str, device: str | torch.device, **changes: Any) -> FrozenBase:
        """Return a base with the same weights and preprocessing, but some changed settings."""
        changes["exact_resize"] = self.base.transform.exact_resize
        own = {"layers": (layer,), "device": str(device), **changes}
        return FrozenBase(replace(self.base.settings, **own))

    def with_images(
        self, cache: Cache, checkpoint: Checkpoint, *, resume: bool, progress: Progress | None
    ) -> "Start":
        """Choose the images, read each once, and fill the cache if activations come from it.

        The first process writes its choice into the checkpoint's folder, where the other processes
        and a resumed run find it. Errors are those of `bottleneck.finetune.finetune_head`.

        Returns
        -------
        Start
            The start with the usable images and with the banks of their activations.
        """
        if not is_first_process():
            return _begun(self, cache, checkpoint, progress)
        if not resume:
            _check_folder(checkpoint)
        look = partial(_without_bad_images, transform=self.base.transform, progress=progress)
        images, known = self.images, is_known(self.images, cache)
        if not known:
            images = look(images)
            images.write_csv(cache.set_file(images.name))
        plan = _plan(self.head, images, self.settings)
        if resume:
            checkpoint.check(plan, self.settings)
            return _begun(replace(self, images=images), cache, checkpoint, progress)
        chosen = images_to_train(images, self.head, self.settings)
        shown: dict[str, Any] = {"device": str(self.base.devices[0]), "progress": progress}
        refitted = head_without(self.head, images, chosen, cache, self.settings, **shown)
        if known and not self.settings.from_cache:
            chosen = look(chosen)
        start = _filled(replace(self, images=images, chosen=chosen), cache, progress)
        check_classes(start.chosen, start.head)
        checkpoint.begin(plan, start.chosen, refitted)
        return replace(start, refitted=checkpoint.head())


def is_first_process() -> bool:
    """Return whether the user started this process, not another training process.

    Returns
    -------
    bool
    """
    return os.environ.get("LOCAL_RANK", "0") == "0"


def open_start(
    head: Head, images: ImageSet, settings: FinetuneSettings, weights: str | None, device: str
) -> Start:
    """Load a head's base and split its network.

    Parameters and errors are those of `bottleneck.finetune.finetune_head`.

    Parameters
    ----------
    head : Head
        A head fitted on extracted features.
    images : ImageSet
        The whole set.
    settings : FinetuneSettings
        Hyperparameters.
    weights : str or None
        Name or path of the base's weights, if they have moved.
    device : str
        Device to compute on.

    Returns
    -------
    Start
        A start without chosen images.

    Raises
    ------
    UsageError
        The head has no weights, an unknown network or images of any proportions; or `unfreeze` does
        not fit the network, `from_cache` or `mix`.
    DataError, WeightsError
        As for `bottleneck.predict.load_base`.
    """
    source = single_source(head.source)
    if head.clf == "knn":
        raise UsageError(
            "a knn head has no weights to train; fit another with 'bottleneck fit-head --clf "
            "softmax'"
        )
    if source.adjustments.get("keep_aspect"):
        raise UsageError(
            "the head was fitted with `keep_aspect`, on images of any proportions, which cannot be "
            "batched; extract without it, and fit a head on those features"
        )
    if source.stored_pool == "map":
        raise UsageError(
            "the head was fitted with `pool=map`, the network's own attention pooling, which is "
            "not trained; fit a head on features with another `pool`, or on the layer penultimate"
        )
    base = load_base(head, weights=weights, device=device)
    split = split_network(base.network, str(settings.unfreeze), source.layer)
    check_mix(settings, base.network, split)
    if settings.from_cache and base.network.untraced:
        raise UsageError(
            f"{source.model} cannot be traced and cut into parts, so there are no activations to "
            f"cache; leave `from_cache` out"
        )
    if settings.from_cache and split.boundary is None:
        raise UsageError(
            f"`unfreeze={settings.unfreeze}` trains all of {source.model}, which leaves no "
            f"frozen activations to cache; leave `from_cache` out, or name a later layer"
        )
    return Start(head, settings, base, split, images, images, {})


def _check_folder(checkpoint: Checkpoint) -> None:
    """Raise an error if the folder has an unfinished run, or a head cannot be saved in it."""
    folder = checkpoint.result
    checkpoint.forget()
    if checkpoint.exists:
        raise UsageError(
            f"an unfinished run is in {str(folder)!r}; continue it with `resume`, or remove "
            f"{str(checkpoint.folder)!r} to start over"
        )
    check_head_folder(folder)


def _without_bad_images(
    images: ImageSet, transform: Transform, progress: Progress | None
) -> ImageSet:
    """Read each image of a set once, and leave out unusable ones."""

    def reason(item: ImageItem) -> str:
        try:
            preprocess(transform, read_file(item))
        except BadImageError as error:
            return str(error)
        return ""

    bad = {}
    report = progress or (lambda *_: None)
    report("check", 0, len(images.items))
    for number, why in enumerate(in_threads(reason, images.items)):
        if why:
            bad[images.items[number].digest] = why
        report("check", number + 1, len(images.items))
    return usable_images(images, bad)


def _plan(head: Head, images: ImageSet, settings: FinetuneSettings) -> PlanRecord:
    """Return the record that must be the same when a run is resumed."""
    known = head.as_dict()
    return PlanRecord(
        settings=settings.as_dict(),
        start={
            "head": {key: known[key] for key in ("clf", "classes", "temperature")},
            "base": single_source(head.source).fingerprint,
            "image set": {name: images.digest_of(name) for name in ("train", "val")},
            "augmentation": find_policy(settings.augment).as_dict(),
        },
    )


def _begun(start: Start, cache: Cache, checkpoint: Checkpoint, progress: Progress | None) -> Start:
    """Return the start that a checkpoint tells, of an earlier run or of the first process."""
    told = replace(start, chosen=checkpoint.images(), refitted=checkpoint.head())
    filled = _filled(told, cache, progress)
    check_classes(filled.chosen, filled.head)
    return filled


def _filled(start: Start, cache: Cache, progress: Progress | None) -> Start:
    """Fill the cache if activations come from it; leave out unusable images."""
    how = start.settings
    lower = start.lower(start.base.settings.device) if how.from_cache else None
    if lower is None:
        return start
    stored = StoreSettings(views=how.views or 0, augment=how.augment, dtype=how.dtype)
    (filling,) = fill_banks(start.chosen, lower, cache, stored, progress=progress)
    banks: dict[int, Bank] = {}
    for target in filling.targets:
        banks |= dict.fromkeys(target.views, target.banks[lower.layers[0]])
    return replace(start, chosen=usable_images(start.chosen, filling.bad), banks=banks)


def default_images(head: Head, cache: Cache) -> ImageSet:
    """Return the image set that a head was fitted on.

    Parameters
    ----------
    head : Head
        The fitted head.
    cache : Cache
        The cache of its features.

    Returns
    -------
    ImageSet

    Raises
    ------
    DataError
        The cache does not have the image set.
    """
    file = cache.set_file(name := single_source(head.source).image_set)
    if not file.exists():
        raise DataError(
            f"no image set {name!r} in the cache folder {str(cache.root)!r}; give the cache that "
            f"the head was fitted on with `cache`, or give the images with `data`"
        )
    return ImageSet.read_csv(file)
