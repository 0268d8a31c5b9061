"""What a fitted head and a fine-tuned model say of themselves."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from bottleneck.errors import BottleneckError, DataError, WeightsError
from bottleneck.records import values
from bottleneck.records.banks import Augmentation, TransformFacts
from bottleneck.records.record import STRICT, Record
from bottleneck.records.runs import FeatureSource
from bottleneck.settings.values import Classifier


@dataclass(frozen=True, eq=False, kw_only=True)
class HeadFacts(Record):
    """What is known of a head, beside its model.

    Attributes
    ----------
    clf : str
        The classifier.
    classes : tuple of str
        k labels, sorted.
    hyperparameters : dict
        What it was fitted with: ``C``, the inverse strength of the L2 penalty, as in scikit-learn;
        ``n_neighbors``; or those of `bottleneck.heads.MLP`.
    multilabel : bool
        Whether an image may be of several classes, or of none.
    temperature : float
        Divides the scores before they are turned into probabilities; fitted on held-out scores (Guo
        et al. 2017, On Calibration of Modern Neural Networks, section 4), and 1 without any.
    scores : dict
        How the hyper-parameter was chosen: the held-out metrics of each candidate; how far the
        probabilities of the chosen one were from the truth, with and without its temperature; and
        the history of a network's training.
    source : FeatureSource or None
        The features that it was fitted on. A saved head whose model is ``.`` has it beside it;
        loaded, it names the folder.
    """

    clf: Annotated[str, values.among(Classifier)]
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    hyperparameters: dict[str, values.Json] = field(default_factory=dict)
    multilabel: bool = False
    temperature: Annotated[float, Field(ge=1e-3, le=1e3)] = 1.0
    scores: dict[str, values.Json] = field(default_factory=dict)
    source: FeatureSource | None = None

    @classmethod
    def refusal(cls, path: Path, error: Exception) -> BottleneckError:
        """Return what to raise where a head cannot be read.

        Parameters
        ----------
        path : Path
            The file.
        error : Exception
            Why.

        Returns
        -------
        BottleneckError
            A `DataError`.
        """
        return DataError(f"the head {str(path)!r} cannot be read ({error}); fit it again")


@with_config(ConfigDict(**STRICT, extra="forbid"))
class HeadSettings(TypedDict, total=False):
    """Numbers that a head's model has beside its arrays, see `bottleneck.heads.models`."""

    dropout: Annotated[float, Field(ge=0, lt=1)]
    n_neighbors: values.Size
    multilabel: bool


@dataclass(frozen=True, kw_only=True)
class HeadRecord(HeadFacts):
    """``head.json``.

    Attributes
    ----------
    created : str
        When it was saved, in ISO format.
    kind, settings : str, dict
        Of the model: a key of `bottleneck.heads.models.MODELS`, and its numbers.
    n_features : int
        How many it takes.
    weights_sha256 : str
        Of ``head.safetensors``.
    """

    SCHEMA: ClassVar[int] = 4

    created: values.Time
    kind: Annotated[str, values.among(Literal["affine", "mlp", "knn"])]
    settings: HeadSettings
    n_features: values.Size
    weights_sha256: values.Digest

    @classmethod
    def upgraded(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Read how heads of no known features said so.

        Parameters
        ----------
        content : dict of str to Any
            What JSON held.

        Returns
        -------
        dict of str to Any
        """
        return {**content, "source": None} if content.get("source") == {} else content


@dataclass(frozen=True, kw_only=True)
class ModelFacts(Record):
    """How a model was fine-tuned.

    Attributes
    ----------
    layer : str
        Up to which layer it was trained.
    settings, augmentation : dict
        How.
    boundary : str or None
        Where the trained layers begin; None where all were trained.
    pool, image_set : str
        Of the head, and what it was trained on.
    split_digests : dict of str to str
        The images and labels of each split.
    started_from : FeatureSource
        Of the head that it started from.
    best_epoch, epochs : int
        Which one was kept, of how many.
    validation : dict of str to float
        How good it was then.
    """

    layer: str
    settings: dict[str, values.Json]
    augmentation: Augmentation
    boundary: str | None
    pool: values.Pool
    image_set: str
    split_digests: dict[str, values.Digest]
    started_from: FeatureSource
    best_epoch: values.Count
    epochs: values.Count
    validation: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class ModelRecord(ModelFacts):
    """``model.json`` of a fine-tuned model.

    Attributes
    ----------
    base, architecture : str
        The model that it was.
    transform : TransformFacts
        The preprocessing that it was trained with.
    weights_sha256 : str
        Of ``model.safetensors``.
    """

    SCHEMA: ClassVar[int] = 1

    base: str
    architecture: str
    transform: TransformFacts
    weights_sha256: values.Digest

    @classmethod
    def refusal(cls, path: Path, error: Exception) -> BottleneckError:
        """Return what to raise where a model cannot be read.

        Parameters
        ----------
        path : Path
            The file.
        error : Exception
            Why.

        Returns
        -------
        BottleneckError
            A `WeightsError`.
        """
        return WeightsError(
            f"the fine-tuned model {str(path)!r} cannot be read ({error}); fine-tune it again"
        )
