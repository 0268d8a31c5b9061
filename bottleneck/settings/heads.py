"""The settings of heads: how they are fitted, compared, judged, used and fine-tuned."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from math import inf
from typing import Annotated, Any, Literal

from annotated_doc import Doc
from pydantic import BeforeValidator, Field

from bottleneck.errors import UsageError
from bottleneck.fields import Option, settings
from bottleneck.settings.values import (
    Augmentation,
    Balanced,
    BatchSize,
    Classifier,
    Count,
    Device,
    DeviceName,
    Dtype,
    Folds,
    MovedWeights,
    NotNegative,
    Penalty,
    Positive,
    Seed,
    Share,
    ViewCount,
    check_views,
)

__all__ = [
    "AdviseSettings",
    "EvaluateSettings",
    "FinetuneSettings",
    "FitSettings",
    "MLPSettings",
    "PredictSettings",
    "RankSettings",
    "SweepSettings",
    "TrainingSettings",
]


@settings("Classifier", kw_only=True)
class TrainingSettings:
    """How any classifier is fitted."""

    balanced: Balanced = False
    standardize: Annotated[
        bool,
        Doc("Divide each feature by its standard deviation over the images fitted on."),
        Option("--standardize/--no-standardize"),
    ] = True
    device: Annotated[
        DeviceName,
        Doc("What mlp is trained on: cpu, cuda, cuda:N or auto. Others are fitted on the CPU."),
    ] = "cpu"
    seed: Seed = 0


@settings("Network of mlp", kw_only=True)
class MLPSettings:
    """The classic top of a frozen convolutional base: dense, rectified, dropout, dense.

    Trained by AdamW (Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization) on
    standardised features; kept are the weights of the epoch with the lowest held-out log loss.
    """

    hidden: Annotated[Count, Doc("Hidden units of mlp.")] = 256
    dropout: Annotated[Share, Doc("Share of the hidden units that is left out in a step.")] = 0.5
    epochs: Annotated[Count, Doc("Most epochs of mlp; it stops by itself.")] = 100
    patience: Annotated[Count, Doc("Stop mlp after so many epochs without improvement.")] = 10
    learning_rate: Annotated[Positive, Doc("Learning rate of mlp.")] = 1e-3
    batch_size: Annotated[Count, Doc("Rows in a step of mlp."), Option(hidden=True)] = 64


@settings("Classifier")
class FitSettings(TrainingSettings, MLPSettings):
    """How a classifier is fitted."""

    clf: Annotated[
        Classifier,
        Doc("The classifier; images of several classes need logreg, svm, ridge, knn or mlp."),
    ] = "softmax"
    C: Annotated[
        Penalty | None,
        Doc("Inverse strength of the L2 penalty; chosen on held-out images by default."),
    ] = None
    n_neighbors: Annotated[
        Count | None,
        Doc("How many images vote in knn; chosen like `C` by default."),
        Option("--neighbors"),
    ] = None

    def __post_init__(self) -> None:
        for each in fields(MLPSettings):
            if self.clf != "mlp" and getattr(self, each.name) != each.default:
                raise UsageError(
                    f"`{each.name}` is for mlp, not for {self.clf}; leave it out, or give `clf=mlp`"
                )


def _auto(given: Any) -> Any:
    """Return no values for ``auto``."""
    if given in ("auto", ["auto"], ("auto",)):
        return ()
    return tuple(given) if isinstance(given, list) else given


@settings("Classifier")
class SweepSettings(TrainingSettings):
    """What is tried on each layer, and how it is judged."""

    clfs: Annotated[
        tuple[Classifier | MLPSettings, ...], Doc("A classifier, as for fit-head; may repeat.")
    ] = ("softmax",)
    C: Annotated[
        tuple[Penalty, ...],
        BeforeValidator(_auto),
        Field(description="auto alone, or numbers from 1e-10 to 1e+10"),
        Doc("auto, for eight values from 1e-6 to 10; or a value, and may repeat."),
        Option(metavar="auto|NUMBER"),
    ] = ()
    n_neighbors: Annotated[
        tuple[Count, ...],
        Doc("How many images vote in knn; may repeat. By default six from 1 to 33."),
        Option("--neighbors"),
    ] = ()
    hidden: Annotated[tuple[Count, ...], Doc("Hidden units of mlp; may repeat.")] = ()
    cv: Annotated[
        Folds | None,
        Doc("Folds of the training images; by default 5, or the val images where there are any."),
    ] = None
    repeats: Annotated[Count, Doc("How often the images are split into folds anew.")] = 1


@settings("Study")
class AdviseSettings:
    """How it is measured what limits a head."""

    clf: Annotated[Classifier, Doc("The classifier that is judged, as for fit-head.")] = "softmax"
    repeats: Annotated[Count, Doc("How often subsets and folds are drawn anew.")] = 5
    cv: Annotated[Folds, Doc("Folds of the training images, or blocks of the val images.")] = 5
    seed: Seed = 0


@settings("Evaluation")
class EvaluateSettings:
    """Which images a head is evaluated on."""

    split: Annotated[
        Literal["train", "val", "test"],
        Doc("Images to evaluate on; scores of val and train are too good to quote."),
    ] = "test"


@settings("Experiments")
class RankSettings:
    """Which experiments are shown, or compared."""

    sort: Annotated[
        str | None,
        Doc("A metric, such as log_loss; by default accuracy, or average_precision of labels."),
        Option(metavar="METRIC"),
    ] = None
    where: Annotated[
        tuple[Annotated[str, Field(pattern="=", description="KEY=VALUE, such as clf=svm")], ...],
        Doc("Only experiments with this setting, such as clf=svm; may repeat."),
        Option(metavar="KEY=VALUE"),
    ] = ()
    top: Annotated[Count | None, Doc("Only so many.")] = None
    compare: Annotated[
        tuple[int, int] | None,
        Doc("Instead: two experiments by their numbers, paired over the folds."),
        Option(metavar="A B"),
    ] = None

    def __post_init__(self) -> None:
        if self.compare and (self.where or self.top):
            raise UsageError("`where` and `top` choose rows of a table; leave `compare` out")
        keys = [text.partition("=")[0] for text in self.where]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise UsageError(
                f"`where={twice[0]}=` is given twice, and no experiment has both; give one"
            )


@settings("Prediction")
class PredictSettings:
    """How the classes of new images are predicted."""

    tta: Annotated[
        ViewCount, Doc("Augmented views to average the probabilities over, with the plain image.")
    ] = 0
    augment: Annotated[
        Augmentation | None, Doc("How these views are made, as for extract; or a YAML file.")
    ] = None
    batch_size: BatchSize = "auto"
    weights: MovedWeights = None
    device: Device = "auto"

    def __post_init__(self) -> None:
        check_views(self.tta, self.augment, "tta")


@settings("Training")
class FinetuneSettings:
    """How a network is fine-tuned.

    AdamW is that of Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization; rates that
    decay from block to block are those of Howard and Ruder 2018, Universal Language Model
    Fine-tuning for Text Classification, section 3.2; the cosine schedule is that of Loshchilov and
    Hutter 2017, SGDR: Stochastic Gradient Descent with Warm Restarts, section 3.
    """

    unfreeze: Annotated[
        str,
        Doc("Train from this layer, alias or module on; 'bottleneck layers MODEL' lists them."),
        Option(metavar="LAYER|all"),
    ]
    epochs: Annotated[Count, Doc("Most epochs.")] = 20
    patience: Annotated[Count, Doc("Stop after so many epochs with no lower validation loss.")] = 10
    batch_size: Annotated[Count, Doc("Images in a step, over all devices.")] = 32
    accumulate: Annotated[Count, Doc("Pieces a step is computed in; more need less memory.")] = 1
    optimizer: Annotated[
        Literal["adamw", "sgd", "rmsprop"], Doc("How steps are made; sgd has a momentum of 0.9.")
    ] = "adamw"
    learning_rate: Annotated[
        Positive, Doc("Learning rate of the head; backbone layers use less.")
    ] = 1e-3
    backbone_lr_factor: Annotated[
        Positive, Doc("Learning rate of the last block, as a factor of the head's.")
    ] = 0.1
    layer_decay: Annotated[
        Positive, Doc("Learning rate of each earlier block, as a factor of the next block's.")
    ] = 0.5
    schedule: Annotated[
        Literal["cosine", "constant"],
        Doc("Learning rates go to zero along half a cosine wave, or stay constant."),
    ] = "cosine"
    warm_up: Annotated[Share, Doc("Share of the steps in which learning rates rise from 0.")] = 0.1
    weight_decay: Annotated[NotNegative, Doc("Of weights, not of biases and normalization.")] = 0.01
    clip: Annotated[float, Field(gt=0), Doc("Maximum gradient norm; inf for no limit.")] = 1.0
    label_smoothing: Annotated[Share, Doc("Share of a target spread over all classes.")] = 0.0
    freeze_batch_norm: Annotated[
        bool,
        Doc("Keep the mean and variance of batch normalization, or take those of each batch."),
        Option("--freeze-batch-norm/--no-freeze-batch-norm"),
    ] = True
    balanced: Balanced = False
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"],
        Doc("Precision of training: float32, or mixed precision; fp16 is for GPUs."),
    ] = "fp32"
    augment: Annotated[Augmentation, Doc("How training images are augmented, or a YAML file.")] = (
        "none"
    )
    views: Annotated[
        Annotated[int, Field(ge=1, le=2**16 - 1)] | None,
        Doc("Epochs after which augmented views repeat; needed for them with `from_cache`."),
    ] = None
    from_cache: Annotated[bool, Doc("Train on cached activations of the layer below.")] = False
    dtype: Annotated[Dtype, Doc("The type in which these activations are stored.")] = "float16"
    val_share: Annotated[
        Annotated[float, Field(gt=0, le=0.5)] | None,
        Doc("Share of the training images to hold out, where the set has no val images."),
    ] = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.views is not None and not self.augmented:
            raise UsageError(
                f"{self.views} `views` that are not augmented would all be the same; give "
                f"`augment`, or leave `views` out"
            )
        if self.from_cache and self.augmented and self.views is None:
            raise UsageError(
                "the cache cannot hold new views for each epoch without end; give `views=8` for as "
                "many of each image, or leave `from_cache` out"
            )

    @property
    def augmented(self) -> bool:
        """Whether training images are augmented."""
        return self.augment != "none"

    def view(self, epoch: int) -> int:
        """Return which view of the training images an epoch sees, counted from 1; 0 is plain.

        Parameters
        ----------
        epoch : int
            From 1 on.

        Returns
        -------
        int
        """
        if not self.augmented:
            return 0
        return epoch if self.views is None else 1 + (epoch - 1) % self.views

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON holds them."""
        return {**asdict(self), "clip": None if self.clip == inf else self.clip}

    def difference(self, others: Mapping[str, Any]) -> str:
        """Return the name of a setting that others, as `as_dict` has them, lack; or ``""``.

        Parameters
        ----------
        others : mapping of str to Any
            Of another run.

        Returns
        -------
        str
        """
        own = self.as_dict()
        names = [field.name for field in fields(self)]
        if self.freeze_batch_norm:
            names.remove("accumulate")  # only statistics of batches depend on the pieces of a step
        return next((name for name in names if own[name] != others.get(name)), "")
