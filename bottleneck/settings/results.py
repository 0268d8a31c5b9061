"""Settings for evaluating heads, ranking experiments and predicting."""

from typing import Annotated, Literal

from annotated_doc import Doc
from pydantic import Field

from bottleneck.errors import UsageError
from bottleneck.fields import Option, settings
from bottleneck.settings import values

__all__ = [
    "EvaluateSettings",
    "ExportSettings",
    "LookupSettings",
    "PredictSettings",
    "PredictorSettings",
    "RankSettings",
    "ReportSettings",
    "SuggestSettings",
    "SuspectSettings",
]


@settings("Evaluation")
class EvaluateSettings:
    """Settings for evaluating a head."""

    split: Annotated[
        Literal["train", "val", "test"],
        Doc("Split to evaluate on; scores on val and train are too optimistic to quote."),
    ] = "test"


@settings("Report", kw_only=True)
class ReportSettings(EvaluateSettings):
    """Settings for the page that shows images, heads and what to do next."""

    image_set: Annotated[
        str | None,
        Doc("Report on this image set without a head; by default that of the heads."),
        Option("--set", unless=("head_names",)),
    ] = None
    map: Annotated[
        Literal["pca", "lda"],
        Doc("Axes of the map: principal components, or discriminants of the classes."),
    ] = "pca"
    images: Annotated[
        values.Count,
        Doc("Maximum number of images in the map and the gallery; of more, a sample is shown."),
        Option(unless=("everything",)),
    ] = 2000
    everything: Annotated[
        bool, Doc("Show all images: write a folder instead of one file."), Option("--all")
    ] = False
    suspects: Annotated[
        bool | None,
        Doc(
            "Look for wrong labels, outliers and look-alikes; by default among up to 5,000 "
            "images, and for wrong labels if cleanlab is installed."
        ),
    ] = None


@settings("Suspects")
class SuspectSettings:
    """Settings for finding labels that are probably wrong, outliers and look-alikes."""

    clf: Annotated[
        values.Classifier | None,
        Doc("Classifier to judge labels with; by default softmax, or logreg for several classes."),
    ] = None
    top: Annotated[
        values.Count | None,
        Doc("List so many labels, the most suspect first; by default as many as cleanlab counts."),
    ] = None
    test: Annotated[
        bool, Doc("Also judge the labels of test images; correct these only by what you see.")
    ] = False
    near: Annotated[
        Annotated[float, Field(gt=0, le=1)],
        Doc("Least cosine of the features of two look-alikes."),
    ] = 0.95
    seed: values.Seed = 0


@settings("Experiments")
class RankSettings:
    """Settings for ranking or comparing experiments."""

    sort: Annotated[
        str | None,
        Doc(
            "Metric to sort by or compare, such as log_loss; by default accuracy, or "
            "average_precision if images may have several classes."
        ),
        Option(metavar="METRIC"),
    ] = None
    where: Annotated[
        tuple[Annotated[str, Field(pattern="=", description="KEY=VALUE, such as clf=svm")], ...],
        Doc("Show only experiments with this setting, such as clf=svm; may repeat."),
        Option(metavar="KEY=VALUE", unless=("compare",)),
    ] = ()
    top: Annotated[
        values.Count | None,
        Doc("Maximum number of experiments to show."),
        Option(unless=("compare",)),
    ] = None
    by: Annotated[
        Literal["model"] | None,
        Doc("Show a line for each base, with its best head, intervals of differences, and costs."),
        Option(unless=("compare", "finetuned")),
    ] = None
    compare: Annotated[
        tuple[int, int] | None,
        Doc("Numbers of two experiments to compare, paired over the folds."),
        Option(metavar="A B"),
    ] = None

    @property
    def wanted(self) -> dict[str, str]:
        """The settings that experiments must have."""
        return dict(text.split("=", 1) for text in self.where)

    def __post_init__(self) -> None:
        keys = [text.partition("=")[0] for text in self.where]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise UsageError(
                f"`where={twice[0]}=` is given twice, but an experiment has one value; give one"
            )


@settings("Images", kw_only=True)
class LookupSettings:
    """How the features of images that are not in the cache are computed."""

    batch_size: values.BatchSize = "auto"
    weights: values.MovedWeights = None
    device: values.Device = "auto"
    max_pixels: values.MaxPixels = None
    max_bytes: values.MaxBytes = None


@settings("Suggestions", kw_only=True)
class SuggestSettings(LookupSettings):
    """Settings for choosing the images to label next."""

    n: Annotated[values.Count, Doc("Number of images to suggest.")] = 50
    seed: values.Seed = 0


@settings("Prediction", kw_only=True)
class PredictorSettings(LookupSettings):
    """Settings for predicting the classes of images that come one by one."""

    abstain: Annotated[
        Annotated[float, Field(ge=1, lt=100)] | None,
        Doc(
            "Give no class to images that are farther from the training images than this "
            "percentage of held-out ones, such as 99."
        ),
        Option(metavar="PERCENT"),
    ] = None


@settings("Prediction", kw_only=True)
class PredictSettings(PredictorSettings):
    """Settings for predicting the classes of images."""

    tta: Annotated[
        values.ViewCount,
        Doc("Average the probabilities over this many augmented views and the plain image."),
    ] = 0
    augment: Annotated[
        values.Augmentation | None,
        Doc("Augmentation policy of these views, as for extract, or a YAML file."),
    ] = None

    def __post_init__(self) -> None:
        values.check_views(self.tta, self.augment, "tta")


@settings("Export", kw_only=True)
class ExportSettings:
    """Settings for exporting a head with its base to one file."""

    with_preprocessing: Annotated[
        bool,
        Doc("Let the .onnx file take uint8 RGB images of any size: it resizes, crops, normalises."),
    ] = False
    precision: Annotated[
        Literal["fp32", "fp16", "int8"],
        Doc("Precision of the base in the .onnx file; int8 is calibrated on training images."),
    ] = "fp32"
    opset: Annotated[
        values.Count, Doc("Version of ONNX's operators in the .onnx file, from 18 on.")
    ] = 18
    weights: values.MovedWeights = None
    card: Annotated[bool, Doc("Also write a model card, README.md in the folder of the file.")] = (
        False
    )
