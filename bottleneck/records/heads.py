"""The records of fitted heads and of fine-tuned models."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from bottleneck.errors import BottleneckError, WeightsError
from bottleneck.records import record
from bottleneck.records.banks import Augmentation, TransformFacts
from bottleneck.records.joined import RecordedSource
from bottleneck.records.record import STRICT, Record
from bottleneck.records.runs import FeatureSource
from bottleneck.settings.values import Classifier, Normalize


@dataclass(frozen=True, eq=False, kw_only=True)
class HeadFacts(Record):
    """Facts about a head, besides its model.

    Attributes
    ----------
    clf : str
        The classifier.
    classes : tuple of str
        k labels, sorted.
    hyperparameters : dict
        Hyperparameters of the fit: ``C``, the inverse strength of the L2 penalty, as in
        scikit-learn; ``n_neighbors``; or those of `bottleneck.heads.MLP`; and ``balanced``,
        ``standardize`` and ``seed`` where they were not the defaults.
    multilabel : bool
        Whether images may have several classes, or none.
    power, normalize : float, str
        What is done with features before the model sees them, see `bottleneck.heads.adjust.Adjust`.
    widths : tuple of int
        Numbers of features of the joined layers, which are scaled apart; empty for one layer.
    temperature : float
        Divides the scores before they become probabilities; fitted on held-out scores (Guo et al.
        2017, On Calibration of Modern Neural Networks, section 4), or 1 if there were none.
    scores : dict
        The held-out metrics of each candidate hyperparameter; the calibration error of the chosen
        one, with and without its temperature; and the history of a network's training.
    source : FeatureSource, JoinedSource or None
        The features that it was fitted on: one layer, or several joined. The model ``.`` in a saved
        head means the head's own folder, whose path replaces it when the head is loaded.
    """

    SENTENCE: ClassVar[str] = (
        "the head {path!r} cannot be read ({error}); run 'bottleneck fit-head' again"
    )

    clf: Annotated[str, record.among(Classifier)]
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    hyperparameters: dict[str, record.Json] = field(default_factory=dict)
    multilabel: bool = False
    power: Annotated[float, Field(gt=0, le=1)] = 1.0
    normalize: Annotated[str, record.among(Normalize)] = "none"
    widths: tuple[record.Size, ...] = ()
    temperature: Annotated[float, Field(ge=1e-3, le=1e3)] = 1.0
    scores: dict[str, record.Json] = field(default_factory=dict)
    source: RecordedSource | None = None


@with_config(ConfigDict(**STRICT, extra="forbid"))
class HeadSettings(TypedDict, total=False):
    """Numbers of a head's model, besides its arrays, see `bottleneck.heads.models`."""

    dropout: Annotated[float, Field(ge=0, lt=1)]
    n_neighbors: record.Size
    multilabel: bool


@dataclass(frozen=True, kw_only=True)
class HeadRecord(HeadFacts):
    """``head.json``.

    Attributes
    ----------
    created : str
        Time of saving, in ISO format.
    kind, settings : str, dict
        The model's key in `bottleneck.heads.models.MODELS`, and its numbers.
    n_features : int
        Number of features.
    weights_sha256 : str
        SHA-256 of ``head.safetensors``.
    seen_sha256 : str or None
        SHA-256 of ``head-seen.txt``; None if the images that it was fitted on are unknown.
    """

    SCHEMA: ClassVar[int] = 6  # 4 did not adjust features in its first versions, 5 has no novelty
    READS: ClassVar[tuple[int, ...]] = (4, 5)

    created: record.Time
    kind: Annotated[str, record.among(Literal["affine", "mlp", "knn"])]
    settings: HeadSettings
    n_features: record.Size
    weights_sha256: record.Digest
    seen_sha256: record.Digest | None = None

    @classmethod
    def upgraded(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Convert how older heads recorded that their features are unknown.

        Parameters
        ----------
        content : dict of str to Any
            Content of the JSON file.

        Returns
        -------
        dict of str to Any
        """
        return {**content, "source": None} if content.get("source") == {} else content


@with_config(ConfigDict(**STRICT, extra="forbid"))
class Judged(TypedDict):
    """Whether a validation image was classified correctly before fine-tuning and after it.

    The result after it is that of the epoch that is best on other validation images. Images of one
    group have the same number; one that stands alone has none.
    """

    image: record.Digest
    before: bool
    after: bool
    group: NotRequired[record.Count]


@dataclass(frozen=True, kw_only=True)
class ModelFacts(Record):
    """Facts about fine-tuning a model.

    Attributes
    ----------
    layer : str
        The last layer that was trained.
    settings, augmentation : dict
        Hyperparameters and augmentation.
    boundary : str or None
        The last frozen layer; None if all layers were trained.
    pool, image_set : str
        Pooling of the head, and name of the image set.
    split_digests : dict of str to str
        Digest of the images and labels of each split.
    started_from : FeatureSource
        Feature source of the head that training started from.
    best_epoch, epochs : int
        The saved epoch, and the number of epochs.
    validation : dict of str to float
        Validation metrics of the saved epoch.
    judged : list of dict
        The validation images, as `Judged`; empty in older records.
    """

    layer: str
    settings: dict[str, record.Json]
    augmentation: Augmentation
    boundary: str | None
    pool: record.Pool
    image_set: str
    split_digests: dict[str, record.Digest]
    started_from: FeatureSource
    best_epoch: record.Count
    epochs: record.Count
    validation: dict[str, float]
    judged: list[Judged] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ModelRecord(ModelFacts):
    """``model.json`` of a fine-tuned model.

    Attributes
    ----------
    base, architecture : str
        The model that was fine-tuned.
    transform : TransformFacts
        The preprocessing used in training.
    weights_sha256 : str
        SHA-256 of ``model.safetensors``.
    """

    SCHEMA: ClassVar[int] = 1
    ERROR: ClassVar[type[BottleneckError]] = WeightsError
    SENTENCE: ClassVar[str] = (
        "the fine-tuned model {path!r} cannot be read ({error}); fine-tune it again"
    )

    base: str
    architecture: str
    transform: TransformFacts
    weights_sha256: record.Digest
