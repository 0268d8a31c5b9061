"""Write the result: a model folder with all weights, and the head in it."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from bottleneck.augment import find_policy
from bottleneck.bases import WEIGHTS_NAME, find_model, write_finetuned
from bottleneck.bases.finetuned import MODEL_FILES, seen_digests
from bottleneck.bases.frozen import FrozenBase
from bottleneck.bases.weights import load_weights
from bottleneck.cache import Cache, bank_name
from bottleneck.errors import DataError, counted
from bottleneck.extract import Progress, fill_banks
from bottleneck.features import SPLITS
from bottleneck.finetune.images import seen_by
from bottleneck.finetune.loop import Training
from bottleneck.finetune.start import Start, default_images
from bottleneck.finetune.trial import EpochForecast
from bottleneck.folders import replaced_folder
from bottleneck.heads import Head
from bottleneck.heads.bases import load_base
from bottleneck.heads.curves import read_curves
from bottleneck.heads.files import is_of_head
from bottleneck.heads.head import OWN_FOLDER
from bottleneck.heads.novelty import Novelty, fit_novelty
from bottleneck.heads.scoring import decide
from bottleneck.heads.training import State
from bottleneck.images import ImageSet, groups_of, same_images
from bottleneck.lookup import feature_rows
from bottleneck.records import Augmentation, FeatureSource, Judged, ModelFacts, single_source
from bottleneck.settings import StoreSettings

__all__ = ["fill_split", "write_result"]

_MOST_DESCRIBED = 2000
"""Images of each split whose features are computed to describe where they are."""
_NOT_IN_THE_TRANSFORM = ("reduced_decode", "exact_resize", "max_pixels")


def write_result(
    folder: Path,
    start: Start,
    training: Training,
    state: State,
    *,
    cache: Cache,
    forecast: EpochForecast | None = None,
) -> None:
    """Write a fine-tuned model and its head.

    Parameters
    ----------
    folder : Path
        Folder of the result; created if necessary.
    start : Start
        The start of the training.
    training : Training
        A finished training, whose network is that of the best epoch.
    state : State
        The final state.
    cache : Cache
        The cache of the features that the given head was fitted on.
    forecast : EpochForecast, optional
        What a trial had foretold.

    Raises
    ------
    DataError
        The folder cannot be written.
    """
    source, settings = start.source, start.settings
    model = find_model(source.model)
    fitted = _fitted(start, training, state, forecast)
    facts = ModelFacts(
        layer=source.layer_name,
        settings=settings.as_dict(),
        augmentation=cast("Augmentation", find_policy(settings.augment).as_dict()),
        boundary=start.split.boundary,
        pool=source.pool,
        image_set=source.image_set,
        split_digests={name: start.images.digest_of(name) for name in SPLITS},
        started_from=source,
        best_epoch=state.best_epoch,
        epochs=len(state.history),
        validation={key: fitted.scores["selected"][key] for key in ("accuracy", "log_loss")},
        judged=_judged(training),
    )
    weights = load_weights(model, start.base.settings.weights)[1].load()
    for name, each in training.network.tuned_state().items():
        part, _, own = name.partition(".")
        if part == "upper" and own in weights:
            weights[own] = each.to(weights[own].dtype)
    test = {item.digest for item in start.images.items if item.split == "test"}
    seen = seen_by(start.given, start.images, cache)[0] - test  # as a head fitted again lacks them
    seen |= {item.digest for item in start.chosen.items}
    transform = start.base.transform
    try:
        with replaced_folder(folder, lambda name: name in MODEL_FILES or is_of_head(name)) as new:
            write_finetuned(new, model, weights, transform=transform, facts=facts, seen=seen)
            base = _own_base(new, start)
            source = _own_source(base, folder, start)
            novelty = _novelty(source, base, start.chosen)
            replace(fitted, source=source, seen=frozenset(seen), novelty=novelty).write_into(new)
    except OSError as error:
        raise DataError(
            f"the model cannot be saved as {str(folder)!r} ({error.strerror}); choose another "
            f"folder with `heads`"
        ) from error


def _judged(training: Training) -> list[Judged]:
    """Return which validation images are classified correctly before and after training."""
    choice, targets = training.choice, training.targets

    def right(scores: np.ndarray) -> list[bool]:
        given = decide(scores, multilabel=targets.multilabel)
        return list(map(bool, (given == targets.indicators).all(axis=1)))

    items = training.val.items
    group_of = groups_of(items)
    number = {name: place for place, name in enumerate(sorted(set(group_of.values())))}
    found = []
    for item, one, two in zip(items, right(choice.first), right(choice.unselected()), strict=True):
        found.append(Judged(image=item.digest, before=one, after=two))
        if (name := group_of.get(item.digest)) is not None:
            found[-1]["group"] = number[name]
    return found


def _fitted(start: Start, training: Training, state: State, forecast: EpochForecast | None) -> Head:
    """Return the trained head, with a new temperature if that calibrates it better."""
    head, model = start.head, cast("Any", start.head.model)
    diverged, images = bool(state.diverged), len(training.val.items)
    how = {"diverged": diverged, "mixed": start.settings.mix != "none"}
    reading = read_curves(state.history, images, start=state.start["val_loss"], **how)
    temperature, scores = training.choice.calibrated(fit=state.best_epoch > 0)
    arrays = (each.detach().cpu().numpy().copy() for each in training.network.head.parameters())
    return replace(
        head,
        model=replace(model, **dict(zip(model.arrays, arrays, strict=True))),
        hyperparameters=start.settings.as_dict(),
        temperature=temperature,
        novelty=None,  # that of the start is of other features
        scores={
            "held_out": "validation images",
            **scores,
            "start_head": _start_head(start),
            **{f"start_{name}": value for name, value in state.start.items()},
            "best_epoch": state.best_epoch,
            "diverged": len(state.history) + 1 if diverged else None,
            "planned_epochs": training.settings.epochs,
            "forecast": forecast and forecast.as_dict(),
            "reading": reading,
            "history": state.history,
        },
    )


def _start_head(start: Start) -> str:
    """Return whether the head at the start, or its network, was selected on validation images."""
    if start.refitted:
        return "fitted again without the validation images"
    val = {item.digest for item in start.chosen.items if item.split == "val"}
    selected = same_images(val, seen_digests(start.source.model))
    return "selected on the validation images" if selected else "as given"


def _own_adjustments(start: Start) -> Any:
    own = start.source.adjustments
    return {key: value for key, value in own.items() if key in _NOT_IN_THE_TRANSFORM}


def _own_base(new: Path, start: Start) -> FrozenBase:
    """Return the fine-tuned base, whose model is in `new`."""
    source = start.source
    return FrozenBase(
        str(new),
        [source.layer],
        pool=source.stored_pool,
        precision=source.precision,
        device=start.base.devices[0],
        **_own_adjustments(start),
    )


def _novelty(source: FeatureSource, base: FrozenBase, images: ImageSet) -> Novelty | None:
    """Describe features of training images, and how far those of validation images are from them.

    Training images have been learnt by heart, so that their own distances say nothing. None if too
    few of the images are there, as with activations from the cache.
    """
    splits = ([item for item in images.items if item.split == name] for name in ("train", "val"))
    rows = []
    for items in splits:
        step = -(-len(items) // _MOST_DESCRIBED) or 1
        chosen = replace(images, items=tuple(items[::step]), rejected=())
        found = feature_rows(source, chosen, bases=base)
        rows.append([each[0] for each in found if isinstance(each, np.ndarray)])
    train, held = rows
    if len(train) < 2 or not held:  # noqa: PLR2004 - a nearest other image
        return None
    return fit_novelty(np.stack(train), np.arange(len(train)), held=np.stack(held), fewest=1)


def _own_source(base: FrozenBase, folder: Path, start: Start) -> FeatureSource:
    """Return the head's feature source, whose model is moved to `folder`."""
    source = start.source
    fingerprint = base.fingerprint(source.layer, source.dtype)
    return replace(
        source.with_views(0),
        image_set=start.images.name,
        model=OWN_FOLDER,
        weights=WEIGHTS_NAME,
        weights_random=False,
        adjustments=_own_adjustments(start),
        bank=bank_name(str(folder), fingerprint),
        fingerprint=fingerprint,
        split_digests={name: start.images.digest_of(name) for name in SPLITS},
    )


def fill_split(head: Head, cache: Cache, split: str, *, progress: Progress | None = None) -> None:
    """Compute missing features of a split that a head is to be evaluated on.

    Parameters
    ----------
    head : Head
        The head of a fine-tuned model.
    cache : Cache
        A cache with the head's image set.
    split : str
        ``test``, ``val`` or ``train``.
    progress : callable, optional
        As for `bottleneck.extract.extract_features`.

    Raises
    ------
    DataError
        An image can no longer be read.
    """
    source = single_source(head.source)
    if not cache.set_file(source.image_set).exists():
        return  # who reads the features says so
    images = default_images(head, cache)
    items = tuple(item for item in images.items if item.split == split)
    if not items:
        return
    stored = StoreSettings(dtype=cast("Any", source.dtype))
    chosen = replace(images, items=items)
    (filling,) = fill_banks(chosen, load_base(head), cache, stored, progress=progress)
    bad = filling.bad
    lost = [item for item in items if item.digest in bad]
    if lost:
        raise DataError(
            f"{len(lost)} of the {counted(len(items), f'{split} image')} can no longer be used, "
            f"first {lost[0].path!r} ({bad[lost[0].digest]}); restore them, or give the current "
            f"images to 'bottleneck finetune --data'"
        )
