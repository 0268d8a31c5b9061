"""The settings of every stage: the library, the command line and ``bottleneck.toml`` read these."""

import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import timedelta
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_doc import Doc
from pydantic import AfterValidator, BeforeValidator, Field

from bottleneck.errors import PathMissingError, UnknownNameError, UsageError, did_you_mean
from bottleneck.fields import Option, settings
from bottleneck.files import slug

__all__ = [
    "AUGMENTATIONS",
    "AdviseSettings",
    "Age",
    "Augmentation",
    "BaseSettings",
    "ByLayer",
    "ByModel",
    "BySet",
    "ByteSize",
    "Classifier",
    "Count",
    "Device",
    "DeviceSettings",
    "Dtype",
    "EvaluateSettings",
    "ExtractSettings",
    "FeatureSettings",
    "FinetuneSettings",
    "FitSettings",
    "ImageSettings",
    "ImportSettings",
    "Interpolation",
    "LayerSettings",
    "MLPSettings",
    "MovedWeights",
    "Name",
    "NewSet",
    "Pixels",
    "Pool",
    "PredictSettings",
    "RankSettings",
    "Seed",
    "StoreSettings",
    "SweepFeatures",
    "SweepSettings",
    "TrainingSettings",
    "ViewCount",
    "ViewSettings",
    "check_device",
    "check_views",
]

AUGMENTATIONS = ("none", "flip", "standard", "crop", "color", "noise", "elastic", "trivial")

Classifier = Literal["softmax", "logreg", "svm", "ridge", "lda", "centroid", "knn", "mlp"]
Dtype = Literal["float16", "float32"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
Pool = Literal["none", "avg", "max", "gem", "spp", "cls"]

Count = Annotated[int, Field(ge=1)]
Folds = Annotated[int, Field(ge=2)]
Penalty = Annotated[float, Field(ge=1e-10, le=1e10)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
ViewCount = Annotated[int, Field(ge=0, le=2**16 - 1)]

_LONGEST_NAME = 100
_Side = Annotated[int, Field(ge=1, le=16_384)]


def _pixels(given: Any) -> Any:
    """Return height and width from ``150`` or ``150x200``."""
    sides = given.lower().split("x") if isinstance(given, str) else given
    found = [int(side) for side in ([sides] if isinstance(sides, int) else sides)]
    if len(found) not in {1, 2}:
        raise ValueError
    return found[0], found[-1]


def _bytes(given: Any) -> Any:
    """Return how many bytes ``500MB`` or ``20GB`` are."""
    if not isinstance(given, str):
        return given
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,12})?) ?([kKMGT]?)B?", given)
    if not found:
        raise ValueError
    power: int = " kMGT".index(found[2].replace("K", "k") or " ")
    return round(float(found[1]) * 1000.0**power)


def _age(given: Any) -> Any:
    """Return how long ``12h`` or ``30d`` are."""
    if not isinstance(given, str):
        return given
    found = re.fullmatch(r"([0-9]{1,4}) ?([hdw])", given)
    if not found:
        raise ValueError
    return int(found[1]) * timedelta(hours=(1, 24, 24 * 7)["hdw".index(found[2])])


def _policy(given: str) -> str:
    """Refuse what names no augmentation; a file is read when it is used."""
    if Path(given).suffix in {".yaml", ".yml"}:
        if not Path(given).is_file():
            raise PathMissingError(
                f"no file {given!r}; name an augmentation or the path of a .yaml file"
            )
    elif given not in AUGMENTATIONS:
        raise UnknownNameError(
            f"no augmentation {given!r}{did_you_mean(given, AUGMENTATIONS)}; expected one of "
            f"{', '.join(AUGMENTATIONS)}, or the path of a .yaml file"
        )
    return given


def _plain(name: str) -> str:
    """Refuse a name that would lead to another folder."""
    if name != slug(name) or not name or name.startswith(".") or len(name) > _LONGEST_NAME:
        raise UsageError(
            f"{name!r} cannot be a name; expected at most {_LONGEST_NAME} letters, digits and the "
            f"marks . _ -, not beginning with a dot"
        )
    return name


def check_device(name: str) -> str:
    """Return a device's name; a `UsageError` where it has the form of none."""
    if not re.fullmatch(r"auto|(cpu|cuda(:\d{1,3})?)( *, *(cpu|cuda(:\d{1,3})?))*", name.strip()):
        raise UsageError(
            f"no device {name!r}; expected auto, cpu, cuda, cuda:N, or several GPUs such as "
            f"cuda:0,cuda:1"
        )
    return name


def _auto(given: Any) -> Any:
    """Return no values for ``auto``."""
    return () if given in ("auto", ["auto"], ("auto",)) else given


Age = Annotated[
    timedelta,
    BeforeValidator(_age),
    Field(description="a number with h, d or w, such as 12h or 30d"),
]
Augmentation = Annotated[str, AfterValidator(_policy)]
DeviceName = Annotated[str, AfterValidator(check_device)]
ByteSize = Annotated[
    int,
    BeforeValidator(_bytes),
    Field(ge=0, description="a number with kB, MB, GB or TB, such as 500MB"),
]
Name = Annotated[str, AfterValidator(_plain)]
Pixels = Annotated[
    tuple[_Side, _Side],
    BeforeValidator(_pixels),
    Field(description="pixels as SIDE or HEIGHTxWIDTH, such as 150 or 150x200"),
]

_DATA = (
    "Folder DATA/CLASS/IMAGE or DATA/{train,val,test}/CLASS/IMAGE, or a CSV table with the columns "
    "path,label[,split][,weight]."
)
Balanced = Annotated[bool, Doc("Weight each class the same, however many images it has.")]
BatchSize = Annotated[
    Literal["auto"] | Annotated[int, Field(ge=1, le=99_999)],
    Doc("Images per call of the base; auto is what suits the machine."),
]
ByLayer = Annotated[str | None, Doc("Choose among extractions by layer or alias.")]
ByModel = Annotated[str | None, Doc("Choose among extractions by model.")]
BySet = Annotated[str | None, Doc("Choose among extractions by image set."), Option("--set")]
Device = Annotated[
    DeviceName, Doc("auto (a GPU if there is one), cpu, cuda, cuda:N, or several as cuda:0,cuda:1.")
]
MovedWeights = Annotated[str | None, Doc("The base's weights, where they have moved.")]
NewSet = Annotated[
    Name | None, Doc("Name of the image set; the folder's by default."), Option("--set")
]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1), Doc("Seed of splits, folds and training.")]
Standardize = Annotated[
    bool,
    Doc("Divide each feature by its standard deviation over the images fitted on."),
    Option("--standardize/--no-standardize"),
]
TrainingDevice = Annotated[
    DeviceName, Doc("What mlp is trained on: cpu, cuda, cuda:N or auto; others on the processor.")
]


@settings("Images")
class ImageSettings:
    """Which images."""

    data: Annotated[Path, Doc(_DATA)] = Path("data")
    image_set: NewSet = None
    seed: Seed = 0


@settings("Base")
class BaseSettings:
    """Which network is run, cut at which layers, and how it sees images."""

    model: Annotated[str, Doc("The base; 'bottleneck models' lists them.")]
    layers: Annotated[
        tuple[str, ...],
        Doc("A layer, alias or pattern, or all-blocks; may repeat. The default layer otherwise."),
        Option("--layer"),
    ] = ()
    weights: Annotated[
        str, Doc("default, a name, a .pth or .safetensors file, or random[:SEED] for testing only.")
    ] = "default"
    image_size: Annotated[
        Pixels | None,
        Doc("Pixels that the base sees, as SIDE or HEIGHTxWIDTH; as the weights by default."),
        Option(metavar="PIXELS"),
    ] = None
    interpolation: Annotated[
        Interpolation | None, Doc("How images are resized; as the weights have it by default.")
    ] = None
    squash: Annotated[
        bool | None,
        Doc("Squash the whole image or crop its centre; as the weights have it by default."),
        Option("--squash/--crop"),
    ] = None
    keep_aspect: Annotated[
        bool, Doc("Crop nothing: the base sees whole images of any proportions; needs `pool`.")
    ] = False
    reduced_decode: Annotated[
        bool, Doc("Decode large JPEGs at a fraction of their size: faster, slightly different.")
    ] = False
    exact_resize: Annotated[
        bool | None,
        Doc("Resize exactly as Pillow does; by default where `precision` is given as fp32."),
        Option(hidden=True),
    ] = None
    pool: Annotated[
        Pool, Doc("How maps and tokens are pooled before storing; fit-head can do it later.")
    ] = "none"
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Doc("fp32 is exact; auto takes bf16 where it is native and the network tolerates it."),
    ] = "auto"
    device: Device = "auto"

    def agrees_with(self, other: "BaseSettings") -> bool:
        """Tell whether both are of the same base."""
        names = [field.name for field in fields(BaseSettings)]
        return all(getattr(self, name) == getattr(other, name) for name in names)


@settings("Stored features", kw_only=True)
class StoreSettings:
    """What is computed of each image, and how it is stored."""

    views: Annotated[
        ViewCount, Doc("Augmented views of each training image, beside the plain one.")
    ] = 0
    augment: Annotated[
        Augmentation | None,
        Doc("Augmentation of the views, or a YAML file; see 'bottleneck augment-preview'."),
        Option(words=AUGMENTATIONS),
    ] = None
    dtype: Annotated[Dtype, Doc("The type in which features are stored.")] = "float16"
    compress: Annotated[
        Literal["none", "lz4", "zstd"],
        Doc("How new parts are compressed, without loss: smaller, and slower to read."),
    ] = "none"
    batch_size: BatchSize = "auto"

    def __post_init__(self) -> None:
        check_views(self.views, self.augment)


def check_views(views: int, augment: str | None, name: str = "views") -> None:
    """Raise a `UsageError` unless views are augmented, and what is augmented has views."""
    augmented = augment not in {None, "none"}
    if augmented and not views:
        raise UsageError(f"`augment` {augment!r} needs `{name}` of at least 1; give `{name}=8`")
    if views and not augmented:
        raise UsageError(
            f"`{name}` is {views}, and views that are not augmented would be copies of the image; "
            f"give `augment=standard`"
        )


@settings("Extraction")
class ExtractSettings(BaseSettings, StoreSettings):
    """How features are computed and stored."""


@settings("Features")
class LayerSettings:
    """Which features in the cache: several layers, each pooled in several ways."""

    layers: Annotated[
        tuple[str, ...],
        Doc("A layer or alias; may repeat. By default all of the last extraction."),
        Option("--layer"),
    ] = ()
    pools: Annotated[
        tuple[Pool, ...],
        Doc("Pool stored maps and tokens; may repeat. As they are stored by default."),
        Option("--pool"),
    ] = ()
    model: ByModel = None
    image_set: BySet = None


@settings("Features", kw_only=True)
class ViewSettings:
    """Which augmented views of the training images are fitted on."""

    views: Annotated[
        ViewCount | None,
        Doc("Augmented views to fit on; those of the extraction by default, 0 for none."),
    ] = None
    augment: Annotated[
        str | None,
        Doc("Choose among extractions by the policy of their views."),
        Option(words=AUGMENTATIONS),
    ] = None

    def __post_init__(self) -> None:
        if self.augment is not None and self.views == 0:
            raise UsageError(f"`augment` {self.augment!r} needs `views` of at least 1, got 0")


@settings("Features")
class FeatureSettings(ViewSettings):
    """Which features in the cache: one layer of the last extraction that matches."""

    model: ByModel = None
    layer: ByLayer = None
    image_set: BySet = None
    pool: Annotated[
        Pool | None,
        Doc("Pool stored maps and tokens, or choose among extractions by pooling."),
    ] = None


@settings("Features")
class SweepFeatures(LayerSettings, ViewSettings):
    """Which features in the cache a sweep goes through."""


@settings("Classifier", kw_only=True)
class TrainingSettings:
    """How any classifier is fitted."""

    balanced: Balanced = False
    standardize: Standardize = True
    device: TrainingDevice = "cpu"
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
    patience: Annotated[
        Count, Doc("Epochs of mlp without a lower held-out log loss after which it stops.")
    ] = 10
    learning_rate: Annotated[Positive, Doc("Learning rate of mlp.")] = 1e-3
    batch_size: Annotated[Count, Doc("Rows in a step of mlp."), Option(hidden=True)] = 64


@settings("Classifier")
class FitSettings(TrainingSettings, MLPSettings):
    """How a classifier is fitted."""

    clf: Annotated[
        Classifier, Doc("Of these, logreg, svm, ridge, knn and mlp take images of several classes.")
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
        if self.clf == "mlp":
            return
        for field in fields(MLPSettings):
            if getattr(self, field.name) != field.default:
                raise UsageError(
                    f"`{field.name}` is for mlp, not for {self.clf}; leave it out, or give "
                    f"`clf=mlp`"
                )


@settings("Classifier")
class SweepSettings(TrainingSettings):
    """What is tried on each layer, and how it is judged."""

    clfs: Annotated[
        tuple[Classifier | MLPSettings, ...],
        Doc("A classifier, as for fit-head; may repeat."),
        Option("--clf"),
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


@settings("Experiments")
class RankSettings:
    """Which experiments are shown, or compared."""

    sort: Annotated[
        str | None,
        Doc("A metric, such as log_loss; by default accuracy, or average_precision of labels."),
        Option(metavar="METRIC"),
    ] = None
    where: Annotated[
        tuple[str, ...],
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
        for text, key in zip(self.where, keys, strict=True):
            if "=" not in text:
                raise UsageError(f"`where` must be KEY=VALUE, such as clf=svm, got {text!r}")
            if keys.count(key) > 1:
                raise UsageError(
                    f"`where={key}=` is given twice, and no experiment has both; give one"
                )


@settings("Array")
class ImportSettings:
    """What an imported array is."""

    model: Annotated[Name | None, Doc("A name for what computed the array.")] = None
    layer: Annotated[Name, Doc("A name for the layer.")] = "features"
    axes: Annotated[
        Literal["CHW", "HWC", "TC"] | None, Doc("Of maps or tokens, so that they can be pooled.")
    ] = None
    by_row: Annotated[
        bool, Doc("Let rows stand for themselves, where the images are not at hand.")
    ] = False
    image_set: NewSet = None
    seed: Seed = 0


@settings("Devices")
class DeviceSettings:
    """Where a network is trained."""

    weights: MovedWeights = None
    device: Device = "auto"
    devices: Annotated[
        Count | None, Doc("Processes or GPUs that share each step; those of `device` by default.")
    ] = None


@settings("Evaluation")
class EvaluateSettings:
    """Which images a head is evaluated on."""

    split: Annotated[
        Literal["train", "val", "test"],
        Doc("Images to evaluate on; scores of val and train are too good to quote."),
    ] = "test"


@settings("Prediction")
class PredictSettings:
    """How the classes of new images are predicted."""

    tta: Annotated[
        ViewCount, Doc("Augmented views to average the probabilities over, with the plain image.")
    ] = 0
    augment: Annotated[
        Augmentation | None,
        Doc("How these views are made, as for extract."),
        Option(words=AUGMENTATIONS),
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
    patience: Annotated[
        Count, Doc("Epochs without a lower validation loss after which training stops.")
    ] = 10
    batch_size: Annotated[Count, Doc("Images in a step, over all devices.")] = 32
    accumulate: Annotated[
        Count, Doc("Pieces in which a step goes through its images; more need less memory.")
    ] = 1
    optimizer: Annotated[
        Literal["adamw", "sgd", "rmsprop"],
        Doc("adamw, sgd with a momentum of 0.9, or rmsprop."),
    ] = "adamw"
    learning_rate: Annotated[
        Positive, Doc("Learning rate of the head; backbone layers use less.")
    ] = 1e-3
    base_share: Annotated[
        Positive, Doc("Learning rate of the last block, as a share of the head's.")
    ] = 0.1
    block_decay: Annotated[
        Positive,
        Doc("Learning rate of a block, as a share of the next one's."),
    ] = 0.5
    schedule: Annotated[
        Literal["cosine", "constant"],
        Doc("Learning rates go to zero along half a cosine wave, or stay constant."),
    ] = "cosine"
    warm_up: Annotated[Share, Doc("Share of the steps in which learning rates rise from 0.")] = 0.1
    weight_decay: Annotated[NotNegative, Doc("Of weights, not of biases and normalization.")] = 0.01
    clip: Annotated[float, Field(gt=0), Doc("Maximum gradient norm; inf for no limit.")] = 1.0
    label_smoothing: Annotated[
        Share, Doc("Share of each target that is spread over all classes.")
    ] = 0.0
    batch_statistics: Annotated[
        bool,
        Doc("Let trained batch normalization follow each batch, or keep its own statistics."),
        Option("--batch-statistics/--kept-statistics"),
    ] = False
    balanced: Balanced = False
    precision: Annotated[
        Literal["32-true", "bf16-mixed", "16-mixed"],
        Doc("Numbers that training computes in; 16-mixed is for GPUs."),
    ] = "32-true"
    augment: Annotated[
        Augmentation,
        Doc("How training images are augmented, or a YAML file."),
        Option(words=AUGMENTATIONS),
    ] = "none"
    views: Annotated[
        Annotated[int, Field(ge=1, le=2**16 - 1)] | None,
        Doc("Epochs after which augmented views repeat; needed for them with `from_cache`."),
    ] = None
    from_cache: Annotated[
        bool, Doc("Train on cached activations of the layer below, computed once.")
    ] = False
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
