"""The result: a model folder with all weights, and the head in it."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch

from bottleneck.augment import find_policy
from bottleneck.bases import WEIGHTS_NAME, find_model, write_finetuned
from bottleneck.bases.frozen import FrozenBase
from bottleneck.bases.weights import load_weights
from bottleneck.cache import Cache
from bottleneck.errors import DataError
from bottleneck.features import SPLITS
from bottleneck.finetune.loop import State, Training
from bottleneck.finetune.network import head_model
from bottleneck.finetune.start import Start
from bottleneck.heads import Head, calibration_error
from bottleneck.heads.scoring import fit_temperature, log_losses, log_probabilities, score_metrics
from bottleneck.images import ImageSet
from bottleneck.labels import Targets
from bottleneck.records import Adjustments, Augmentation, FeatureSource, ModelFacts

__all__ = ["write_result"]

_OWN_FOLDER = "."
"""Where a head's `source` says that its model is the folder it lies in, wherever that is."""
_NOT_IN_THE_TRANSFORM = ("reduced_decode", "exact_resize")


def write_result(
    folder: Path,
    start: Start,
    training: Training,
    state: State,
    *,
    scores: np.ndarray,
    images: ImageSet,
    seen: Collection[str],
) -> None:
    """Write the model and its head.

    Parameters
    ----------
    folder : Path
        Where to; made if need be.
    start : Start
        What the training started from.
    training : Training
        Which is over; its network is as after the best epoch.
    state : State
        How it went.
    scores : np.ndarray
        Of the validation images, shape (n, k).
    images : ImageSet
        The whole set.
    seen : collection of str
        SHA-256 of the images trained and validated on.

    Raises
    ------
    UsageError
        `folder` is there and is no head.
    DataError
        It cannot be written.
    """
    fitted = _fitted(start.head, training, state, scores.astype(np.float64))
    source = start.source
    facts = ModelFacts(
        layer=source.layer,
        settings=training.settings.as_dict(),
        augmentation=cast("Augmentation", find_policy(training.settings.augment).as_dict()),
        boundary=start.split.boundary,
        pool=source.pool,
        image_set=source.image_set,
        split_digests={name: images.digest_of(name) for name in SPLITS},
        started_from=source,
        best_epoch=state.best_epoch,
        epochs=len(state.history),
        validation={key: fitted.scores[key] for key in ("accuracy", "log_loss")},
    )
    try:
        # The head last: what has one is whole.
        write_finetuned(
            folder,
            find_model(source.model),
            _all_weights(start, training),
            transform=start.base.transform,
            facts=facts,
            seen=seen,
        )
    except OSError as error:
        raise DataError(
            f"the model cannot be saved as {str(folder)!r} ({error.strerror}); choose another "
            f"folder with `heads`"
        ) from error
    own = replace(_selection(folder, start, images), split_digests=facts.split_digests)
    replace(fitted, source=own).save(folder)


def _all_weights(start: Start, training: Training) -> dict[str, torch.Tensor]:
    """Return the weights that the base had, with those trained in their place."""
    state = load_weights(find_model(start.source.model), start.weights).state
    trained = {
        name.removeprefix("upper."): each
        for name, each in training.network.tuned_state().items()
        if name.startswith("upper.")
    }
    return {
        name: trained[name].to(tensor.dtype) if name in trained else tensor
        for name, tensor in state.items()
    }


def _fitted(head: Head, training: Training, state: State, scores: np.ndarray) -> Head:
    """Return the head as trained."""
    targets = training.val.targets
    temperature = _temperature(head, targets, scores) if state.best_epoch else head.temperature
    before = np.exp(log_probabilities(head.link, scores, 1.0))
    return replace(
        head,
        model=head_model(training.network.head, head.model),
        hyperparameters=training.settings.as_dict(),
        temperature=temperature,
        scores={
            "held_out": "validation images",
            **score_metrics(head.link, scores, targets, temperature),
            "calibration_error_without_temperature": calibration_error(before, targets),
            **{f"start_{name}": value for name, value in state.start.items()},
            "best_epoch": state.best_epoch,
            "diverged": state.diverged,
            "history": state.history,
        },
    )


def _temperature(head: Head, targets: Targets, scores: np.ndarray) -> float:
    """Return one fitted on the validation images, or the head's own where that is no better."""
    found = (head.temperature, fit_temperature(head.link, scores, targets))
    return min(found, key=lambda each: float(log_losses(head.link, scores, targets, each).mean()))


def _selection(folder: Path, start: Start, images: ImageSet) -> FeatureSource:
    """Return which features the head belongs to: those of the model beside it."""
    source = start.source
    adjustments = cast(
        "Adjustments",
        {key: value for key, value in source.adjustments.items() if key in _NOT_IN_THE_TRANSFORM},
    )
    base = FrozenBase(
        str(folder),
        [source.layer],
        pool=source.stored_pool,
        precision=source.precision,
        device=start.base.devices[0],
        **adjustments,
    )
    fingerprint = base.fingerprint(source.layer, source.dtype)
    found = replace(
        source,
        image_set=images.name,
        model=_OWN_FOLDER,
        weights=WEIGHTS_NAME,
        weights_random=False,
        adjustments=adjustments,
        bank=Cache().bank(str(folder), fingerprint).name,
        fingerprint=fingerprint,
    )
    return found.with_views(0)
