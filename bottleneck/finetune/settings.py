"""How a network is fine-tuned."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import inf
from typing import Any

from bottleneck.augment import find_policy
from bottleneck.errors import UnknownNameError, UsageError, did_you_mean

__all__ = ["PRECISIONS", "FinetuneSettings"]

OPTIMIZERS = ("adamw", "sgd", "rmsprop")
SCHEDULES = ("cosine", "constant")
PRECISIONS = {"32-true": "fp32", "bf16-mixed": "bf16", "16-mixed": "fp16"}
"""Fabric's name of a precision, to that in which the frozen part computes beside it."""
_DTYPES = ("float16", "float32")

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "precision": tuple(PRECISIONS),
    "dtype": _DTYPES,
}
_COUNTS = ("epochs", "batch_size", "accumulate", "patience")
_ABOVE_ZERO = ("learning_rate", "base_share", "block_decay", "clip")
_SHARES = ("warm_up", "label_smoothing")


@dataclass(frozen=True)
class FinetuneSettings:
    """How a network is fine-tuned.

    Attributes
    ----------
    unfreeze : str
        From which layer on it is trained, see `bottleneck.bases.split_network`; or ``all``.
    epochs : int
        How often all images are gone through, at most.
    patience : int
        After how many epochs without a lower validation loss the training ends.
    batch_size : int
        Images in a step, over all devices.
    accumulate : int
        In how many pieces a device goes through its share of these; more need less memory.
    optimizer : str
        ``adamw`` (Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization), ``sgd`` with
        a momentum of 0.9, or ``rmsprop``.
    learning_rate : float
        Of the head.
    base_share : float
        What the last block's is of it.
    block_decay : float
        What each other block's is of the next one's (Howard and Ruder 2018, Universal Language
        Model Fine-tuning for Text Classification, section 3.2).
    schedule : str
        ``cosine``: to zero along half a wave (Loshchilov and Hutter 2017, SGDR: Stochastic Gradient
        Descent with Warm Restarts, section 3); or ``constant``.
    warm_up : float
        In which share of the steps the rates rise from zero.
    weight_decay : float
        Of weights; biases and what normalises have none.
    clip : float
        The longest that a gradient may be; ``inf`` for any length.
    label_smoothing : float
        Which share of each target is spread over all classes.
    precision : str
        ``32-true``, ``bf16-mixed`` or ``16-mixed``, as Lightning Fabric names them.
    augment : str
        Of training images, see `bottleneck.augment.find_policy`.
    views : int, optional
        After how many epochs the views of an image come again; none by default.
    from_cache : bool
        Train on activations of the boundary that are in the cache, or are put there first.
    dtype : str
        How these are stored: ``float16`` or ``float32``.
    val_share : float, optional
        Which share of the training images to hold out, in a set that has no validation images.
    batch_statistics : bool
        Whether batch normalisation in what is trained takes mean and variance of each batch, and
        updates its own by them. Otherwise it keeps those that it has, which small batches and few
        images would spoil, and only its scale and shift are trained.
    balanced : bool
        Whether each class counts the same, however many images it has.
    seed : int
        Of the order of images, of dropout and of what is held out.

    Raises
    ------
    UsageError
        A number is out of bounds, or two settings exclude each other.
    UnknownNameError
        There is no such optimizer, schedule, precision, type or policy.
    """

    unfreeze: str
    epochs: int = 20
    patience: int = 10
    batch_size: int = 32
    accumulate: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    base_share: float = 0.1
    block_decay: float = 0.5
    schedule: str = "cosine"
    warm_up: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    label_smoothing: float = 0.0
    precision: str = "32-true"
    augment: str = "none"
    views: int | None = None
    from_cache: bool = False
    dtype: str = "float16"
    val_share: float | None = None
    batch_statistics: bool = False
    balanced: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if (given := getattr(self, name)) not in known:
                raise UnknownNameError(
                    f"no {name} {given!r}{did_you_mean(given, known)}; expected one of "
                    f"{', '.join(known)}"
                )
        self._check_numbers()
        find_policy(self.augment)
        if self.views is not None and self.augment == "none":
            raise UsageError(
                f"{self.views} views of images that are not augmented are all the same; name an "
                f"--augment, or leave --views out"
            )
        if self.from_cache and self.augmented and self.views is None:
            raise UsageError(
                "the cache cannot hold other views for each epoch without end; say with --views "
                "how many of each image it is to hold, or leave --from-cache out"
            )

    def _check_numbers(self) -> None:
        bounds = {name: ("from 1 on", getattr(self, name) >= 1) for name in _COUNTS}
        bounds |= {name: ("above 0", getattr(self, name) > 0) for name in _ABOVE_ZERO}
        bounds |= {name: ("from 0 to below 1", 0 <= getattr(self, name) < 1) for name in _SHARES}
        bounds["weight_decay"] = ("from 0 on", 0 <= self.weight_decay < inf)
        bounds["learning_rate"] = ("above 0 and finite", 0 < self.learning_rate < inf)
        if self.views is not None:
            bounds["views"] = ("from 1 to 65535", 1 <= self.views <= 65535)  # noqa: PLR2004 - uint16
        if self.val_share is not None:
            bounds["val_share"] = ("above 0 and up to 0.5", 0 < self.val_share <= 0.5)  # noqa: PLR2004 - a half
        for name, (expected, kept) in bounds.items():
            if not kept:
                raise UsageError(
                    f"{name} is {getattr(self, name)}, expected a number {expected}; give another "
                    f"--{name.replace('_', '-')}"
                )

    @property
    def augmented(self) -> bool:
        """Whether training images are augmented."""
        return self.augment != "none"

    def view(self, epoch: int) -> int:
        """Return which view of the training images an epoch sees, counted from 1; 0 is plain."""
        if not self.augmented:
            return 0
        return epoch if self.views is None else 1 + (epoch - 1) % self.views

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON holds them."""
        return {**asdict(self), "clip": None if self.clip == inf else self.clip}

    def difference(self, others: Mapping[str, Any]) -> str:
        """Return the name of a setting that others, as `as_dict` has them, lack; or ``""``."""
        own = self.as_dict()
        names = [field.name for field in fields(self)]
        if not self.batch_statistics:
            names.remove("accumulate")  # the pieces of a step change no result but these statistics
        return next((name for name in names if own[name] != others.get(name)), "")
