"""Settings for fitting, comparing, advising on and fine-tuning heads."""

from collections.abc import Iterable
from dataclasses import asdict, fields
from math import inf
from typing import Annotated, Any, Literal

from annotated_doc import Doc
from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import ArgsKwargs

from bottleneck.errors import UsageError
from bottleneck.fields import Option, settings
from bottleneck.settings import values

__all__ = [
    "AdviseSettings",
    "FinetuneSettings",
    "FitSettings",
    "MLPSettings",
    "SweepSettings",
    "TrainingSettings",
    "check_for_mlp",
]


_OF_MLP = Option(needs=("clf=mlp",))
_Count = Annotated[values.Count, _OF_MLP]
RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "chollet": {
        "epochs": 100,
        "patience": 100,
        "batch_size": 20,
        "optimizer": "rmsprop",
        "learning_rate": 1e-5,
        "backbone_lr_factor": 1.0,
        "layer_decay": 1.0,
        "schedule": "constant",
        "warm_up": 0.0,
        "weight_decay": 0.0,
        "label_smoothing": 0.0,
        "clip": inf,
        "augment": "standard",
    },
}
"""Recipe to the fields of `FinetuneSettings` that have another default with it.

``chollet`` is that of Chollet 2017, Deep Learning with Python, section 5.3.2.
"""


@settings("Classifier", kw_only=True)
class TrainingSettings:
    """Settings for fitting any classifier."""

    balanced: values.Balanced = False
    standardize: Annotated[
        bool,
        Doc("Divide each feature by its standard deviation over the training images, or more."),
        Option("--standardize/--no-standardize"),
    ] = True
    power: Annotated[
        Annotated[float, Field(gt=0, le=1)],
        Doc("First take the signed power of each feature: 0.5 is the signed square root."),
    ] = 1.0
    normalize: Annotated[
        values.Normalize,
        Doc("Then divide the features of each image, by layer, by their Euclidean norm (l2)."),
    ] = "none"
    device: Annotated[
        values.DeviceName,
        Doc("Device that trains mlp: cpu, cuda, cuda:N or auto. Other classifiers use the CPU."),
    ] = "cpu"
    seed: values.Seed = 0


@settings("Network of mlp", kw_only=True)
class MLPSettings:
    """A classic head on a frozen convolutional base: dense, ReLU, dropout, dense.

    It is trained with AdamW (Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization) on
    standardised features; the epoch with the lowest held-out log loss is kept.
    """

    hidden: Annotated[_Count, Doc("Number of hidden units of mlp.")] = 256
    dropout: Annotated[values.Share, Doc("Dropout rate of mlp's hidden units."), _OF_MLP] = 0.5
    epochs: Annotated[_Count, Doc("Maximum number of epochs of mlp; it stops early.")] = 100
    patience: Annotated[_Count, Doc("Epochs without improvement after which mlp stops.")] = 10
    learning_rate: Annotated[values.Positive, Doc("Learning rate of mlp."), _OF_MLP] = 1e-3
    batch_size: Annotated[values.Count, Doc("Batch size of mlp."), Option(hidden=True)] = 64


def check_for_mlp(clf: str, given: Iterable[str]) -> None:
    """Check that nothing is given that other classifiers than mlp lack.

    Parameters
    ----------
    clf : str
        The classifier.
    given : iterable of str
        Names of the parameters of mlp that are given.

    Raises
    ------
    UsageError
        One is given for another classifier.
    """
    for name in given if clf != "mlp" else ():
        raise UsageError(f"`{name}` is for mlp, not for {clf}; leave it out, or give `clf=mlp`")


@settings("Classifier")
class FitSettings(TrainingSettings, MLPSettings):
    """Settings for fitting one classifier."""

    clf: Annotated[
        values.Classifier,
        Doc("Classifier; logreg, svm, ridge, knn and mlp also take images with several classes."),
    ] = "softmax"
    C: Annotated[
        values.Penalty | None,
        BeforeValidator(lambda given: None if given == "auto" else given),
        Field(description="auto or a number from 1e-10 to 1e+10"),
        Doc("Inverse strength of the L2 penalty; by default (auto) chosen on held-out images."),
        Option(metavar="auto|NUMBER"),
    ] = None
    n_neighbors: Annotated[
        values.Count | None,
        Doc("Number of neighbours of knn; by default chosen like `C`."),
        Option("--neighbors"),
    ] = None

    def __post_init__(self) -> None:
        own = [each for each in fields(MLPSettings) if getattr(self, each.name) != each.default]
        check_for_mlp(self.clf, [each.name for each in own])


def _auto(given: Any) -> Any:
    """Return an empty tuple for ``auto``."""
    if given in ("auto", ["auto"], ("auto",)):
        return ()
    return tuple(given) if isinstance(given, list) else given


def _listed(given: Any) -> Any:
    """Return what is listed in texts such as ``1,2,4``, each once."""
    several = [given] if isinstance(given, str | int) else given
    if not isinstance(several, list | tuple):
        return given
    words = [part for each in several for part in str(each).split(",")]
    return tuple(dict.fromkeys(int(each) if each.strip().isdigit() else each for each in words))


@settings("Classifier")
class SweepSettings(TrainingSettings):
    """Classifiers and values to try on each layer, and their cross-validation."""

    clfs: Annotated[
        tuple[values.Classifier | MLPSettings, ...],
        Doc("A classifier, as for fit-head; may repeat."),
    ] = ("softmax",)
    C: Annotated[
        tuple[values.Penalty, ...],
        BeforeValidator(_auto),
        Field(description="auto alone, or numbers from 1e-10 to 1e+10"),
        Doc("Values of `C` to try, may repeat; auto for eight from 1e-6 to 10."),
        Option(metavar="auto|NUMBER"),
    ] = ()
    n_neighbors: Annotated[
        tuple[values.Count, ...],
        Doc("Numbers of neighbours of knn to try, may repeat; by default six from 1 to 33."),
        Option("--neighbors"),
    ] = ()
    hidden: Annotated[tuple[values.Count, ...], Doc("Hidden units of mlp to try; may repeat.")] = ()
    cv: Annotated[
        values.Folds | None,
        Doc("Number of folds of training images; by default val images are held out, or 5 folds."),
    ] = None
    repeats: Annotated[values.Count, Doc("Number of cross-validations, each with new folds.")] = 1
    shots: Annotated[
        tuple[Literal["all"] | values.Count, ...],
        BeforeValidator(_listed),
        Field(description="all or numbers of at least 1, such as 1,2,4,all", min_length=1),
        Doc("Fit on so many images of each class, drawn anew for each fold, such as 1,2,4,all."),
        Option("--shots", metavar="all|NUMBER,..."),
    ] = ("all",)


@settings("Study")
class AdviseSettings:
    """Settings for measuring what limits a head."""

    clf: Annotated[values.Classifier, Doc("Classifier to judge layers with.")] = "softmax"
    repeats: Annotated[values.Count, Doc("Repetitions, each with new subsets and folds.")] = 5
    cv: Annotated[values.Folds, Doc("Folds of training images, or blocks of val images.")] = 5
    seed: values.Seed = 0


@settings("Training")
class FinetuneSettings:
    """Settings for fine-tuning a network.

    AdamW: Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization. Layer decay: Howard
    and Ruder 2018, Universal Language Model Fine-tuning for Text Classification, section 3.2.
    Cosine schedule: Loshchilov and Hutter 2017, SGDR: Stochastic Gradient Descent with Warm
    Restarts, section 3.
    """

    unfreeze: Annotated[
        str | None,
        Doc("First layer to train, by alias or module; by default the one that 'advise' named."),
        Option(metavar="LAYER|all"),
    ] = None
    recipe: Annotated[
        Literal["default", "chollet"],
        Doc("Set of defaults; other options override them, see docs/finetune.md."),
    ] = "default"
    epochs: Annotated[values.Count, Doc("Maximum number of epochs.")] = 20
    patience: Annotated[values.Count, Doc("Stop after this many epochs without a better one.")] = 20
    minutes: Annotated[
        values.Positive | None,
        Doc("Plan only as many epochs as fit into these minutes, as a short trial tells."),
    ] = None
    batch_size: Annotated[values.Count, Doc("Images in a step, over all devices.")] = 32
    accumulate: Annotated[
        values.Count, Doc("Pieces in which each step is computed; more pieces need less memory.")
    ] = 1
    optimizer: Annotated[
        Literal["adamw", "sgd", "rmsprop"], Doc("Optimizer; sgd has a momentum of 0.9.")
    ] = "adamw"
    learning_rate: Annotated[
        values.Positive, Doc("Learning rate of the head, and the base of those of other layers.")
    ] = 5e-4
    backbone_lr_factor: Annotated[
        values.Positive, Doc("Learning rate of the last block, as a factor of the head's.")
    ] = 1.0
    layer_decay: Annotated[
        values.Positive,
        Doc("Learning rate of each block, as a factor of the next block's (layer decay)."),
    ] = 1.0
    schedule: Annotated[
        Literal["cosine", "constant"],
        Doc("Learning-rate schedule after the warm-up: half a cosine wave to zero, or constant."),
    ] = "cosine"
    warm_up: Annotated[values.Share, Doc("Fraction of steps in which learning rates rise.")] = 0.1
    weight_decay: Annotated[
        values.NotNegative, Doc("Weight decay; biases and normalization have none.")
    ] = 0.01
    clip: Annotated[float, Field(gt=0), Doc("Maximum gradient norm; inf for no limit.")] = 1.0
    label_smoothing: Annotated[
        values.Share, Doc("Fraction of each target that is spread over all classes.")
    ] = 0.1
    freeze_batch_norm: Annotated[
        bool,
        Doc("Keep the mean and variance of batch normalization instead of using those of batches."),
        Option("--freeze-batch-norm/--no-freeze-batch-norm"),
    ] = True
    balanced: values.Balanced = False
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"],
        Doc("Precision of training: float32, or mixed precision; fp16 needs a GPU."),
    ] = "fp32"
    augment: Annotated[
        values.Augmentation, Doc("Augmentation policy of the training images, or a YAML file.")
    ] = "none"
    views: Annotated[
        Annotated[int, Field(ge=1, le=2**16 - 1)] | None,
        Doc("Augmented views of each image, one per epoch in turn; required with `from_cache`."),
    ] = None
    mix: Annotated[
        Literal["none", "mixup", "cutmix"],
        Doc("Train on mixtures of two images, or of their activations where layers are frozen."),
    ] = "none"
    mix_alpha: Annotated[
        values.Positive | None,
        Doc("Alpha of the shares' beta distribution; by default 0.2 for mixup, 1 for cutmix."),
        Option(needs=("mix=mixup", "mix=cutmix")),
    ] = None
    from_cache: Annotated[bool, Doc("Train on cached activations of the frozen layers.")] = False
    dtype: Annotated[
        values.Dtype, Doc("Data type of the stored activations."), Option(needs=("from_cache",))
    ] = "float16"
    val_share: Annotated[
        Annotated[float, Field(gt=0, le=0.5)] | None,
        Doc("Fraction of the training images to hold out, where the set has no val images."),
    ] = None
    seed: values.Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _with_recipe(cls, given: ArgsKwargs) -> ArgsKwargs:
        """Add the recipe's values of fields that are not given."""
        own = given.kwargs or {}
        named = own.get("recipe")
        defaults = RECIPES.get(named, {}) if isinstance(named, str) else {}
        return ArgsKwargs(given.args, {**defaults, **own})

    def __post_init__(self) -> None:
        if self.views is not None and not self.augmented:
            raise UsageError(
                "unaugmented `views` would all be the same; give `augment`, or leave `views` out"
            )
        if self.mix_alpha is not None and self.mix == "none":
            raise UsageError(
                "`mix_alpha` has no effect without `mix`; give `mix=mixup` or `mix=cutmix`, or "
                "leave `mix_alpha` out"
            )
        if self.from_cache and self.augmented and self.views is None:
            raise UsageError(
                "`from_cache` needs to know how many augmented views to store; give `views=8` for "
                "8 views of each image, or leave `from_cache` out"
            )

    @property
    def augmented(self) -> bool:
        """Whether training images are augmented."""
        return self.augment != "none"

    def view(self, epoch: int) -> int:
        """Return the view of training images in an epoch, counted from 1; 0 is unaugmented.

        Parameters
        ----------
        epoch : int
            Number of the epoch, from 1 on.

        Returns
        -------
        int
        """
        if not self.augmented:
            return 0
        return epoch if self.views is None else 1 + (epoch - 1) % self.views

    def as_dict(self) -> dict[str, Any]:
        """Return the settings in JSON types."""
        return {**asdict(self), "clip": None if self.clip == inf else self.clip}
