"""Records: what a run, bank, head or model says of itself, each fact declared once.

A record is a dataclass. It is written as JSON with a digest of itself, and checked key by key when
it is read: a key that is missing, or whose value cannot be, is one sentence.
"""

import json
import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NotRequired, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_serializer,
    with_config,
)
from typing_extensions import TypedDict

from bottleneck.errors import (
    BottleneckError,
    CacheError,
    DamagedError,
    DataError,
    OtherVersionError,
    WeightsError,
)
from bottleneck.files import read_json, slug, write_json
from bottleneck.settings.values import Classifier, Dtype, Interpolation, Pool, ViewCount

__all__ = [
    "IMPORTED",
    "Adjustments",
    "BankRecord",
    "ExportRecord",
    "ExtractedLayer",
    "Extraction",
    "FeatureSource",
    "HeadFacts",
    "HeadRecord",
    "LayerFacts",
    "ModelFacts",
    "ModelRecord",
    "Record",
    "RejectedImage",
    "RunFacts",
    "StoredLayer",
    "TransformFacts",
    "as_dict",
    "facts_of",
    "known_source",
    "parse_record",
    "read_record",
    "write_record",
]

IMPORTED = "imported"
"""What the weights of a model are called that computed features elsewhere."""

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


def _among(choices: Any) -> AfterValidator:
    def check(value: str) -> str:
        if value not in get_args(choices):
            raise ValueError(f"one of {', '.join(map(repr, get_args(choices)))}")
        return value

    return AfterValidator(check)


def _is_finite(value: Any) -> Any:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict | list):
            waiting.extend(each.values() if isinstance(each, dict) else each)
        elif isinstance(each, float) and not math.isfinite(each):
            raise ValueError("finite numbers")
    return value


def _is_time(value: str) -> str:
    try:
        aware = datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        aware = False
    if not aware:
        raise ValueError("a time in ISO format, with its zone")
    return value


def _is_even(rows: list[list[float]]) -> list[list[float]]:
    if len(set(map(len, rows))) > 1:
        raise ValueError("rows of equal length")
    return rows


Json = Annotated[Any, AfterValidator(_is_finite)]
"""Whatever JSON holds, in finite numbers."""
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_BankName = Annotated[str, Field(pattern=r"^[^/\\]+-[0-9a-f]{12}$")]
_Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
_Size = Annotated[int, Field(ge=1)]
_Pixels = tuple[_Size, _Size]
_Time = Annotated[str, AfterValidator(_is_time)]
_Pool = Annotated[str, _among(Pool)]
_Axes = Annotated[str, _among(Literal["C", "CHW", "HWC", "TC", ""])]
"""What the axes of a stored row can be; the last where it is not known."""
_Storage = Annotated[str, _among(Dtype)]
_Computed = Annotated[str, _among(Literal["fp32", "bf16", "fp16", ""])]
_Interpolation = Annotated[str, _among(Interpolation)]


class OtherVersion(ValueError):  # noqa: N818 - `Record.refusal` makes the error of it
    """Another version of this package wrote the record."""


class Record:
    """Base of all records."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    SCHEMA: ClassVar[int | None] = None
    """Raised whenever files of before cannot be read any more; none where the content tells."""

    @classmethod
    def upgraded(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Return what this version writes in place of what earlier ones did."""
        return content

    @classmethod
    def refusal(cls, path: Path, error: Exception) -> BottleneckError:
        """Return what to raise where a file cannot be read, or is wrong."""
        return DataError(f"{str(path)!r} cannot be read ({error})")

    def as_dict(self) -> dict[str, Any]:
        """Return the record as JSON holds it."""
        return as_dict(self, type(self))


_R = TypeVar("_R", bound=Record)


class _CacheRecord(Record):
    """A record in the cache folder."""

    @classmethod
    def refusal(cls, path: Path, error: Exception) -> BottleneckError:
        if isinstance(error, OSError):
            return CacheError(
                f"{str(path)!r} cannot be read ({error.strerror}); restore it, or extract again"
            )
        if isinstance(error, OtherVersion):
            return OtherVersionError(f"{str(path)!r} cannot be read ({error}); extract again")
        return DamagedError(path, str(error))


def _without_defaults(self: Any, handler: Any) -> dict[str, Any]:
    """Leave out what need not be said, as earlier versions did not know it."""
    defaults = {each.name: each.default for each in fields(self) if each.default is not MISSING}
    return {
        key: value
        for key, value in handler(self).items()
        if key not in defaults or getattr(self, key) != defaults[key]
    }


@with_config(ConfigDict(**_STRICT, extra="forbid"))
class Adjustments(TypedDict, total=False):
    """How the preprocessing differs from that of the weights: arguments of `FrozenBase`."""

    image_size: _Pixels
    interpolation: _Interpolation
    squash: bool
    keep_aspect: bool
    reduced_decode: bool
    exact_resize: bool


@with_config(_STRICT)
class Precision(TypedDict):
    """In which numbers features are stored and, unless they were imported, were computed."""

    storage: _Storage
    compute: NotRequired[_Computed]


@with_config(_STRICT)
class Augmentation(TypedDict):
    """All that decides the pixels of augmented views, see `bottleneck.augment.Policy`."""

    scheme: int
    steps: list[dict[str, dict[str, Json]]]


@dataclass(frozen=True)
class TransformFacts(Record):
    """Preprocessing: resize, crop the centre, scale to [0, 1], normalise.

    Attributes
    ----------
    resize : (int, int)
        Height and width in pixels of the box that the resized image covers, or fills.
    crop : (int, int)
        Height and width in pixels of the centre crop, which is what the base sees.
    interpolation : str
        As Pillow names it.
    mean, std : tuple of float
        Per channel, on the scale [0, 1].
    squash : bool
        Fill the box whatever becomes of the image's proportions. Otherwise they are kept, and the
        image covers the box: for a square one, its shorter side becomes the box's side.
    keep_aspect : bool
        Nothing is cropped: the base sees the whole image, whose shorter side became the box's.
    reduced_decode : bool
        A large JPEG is decoded at a half, a quarter or an eighth of its size, at no less than twice
        the size that it is resized to.
    exact_resize : bool
        Resize as Pillow does, bit for bit. Otherwise, where both sides shrink, by the uint8 kernels
        of `torch.nn.functional.interpolate`, which do the same arithmetic in fewer bits and several
        times faster: a value in some hundreds differs by 1 of 255.
    """

    resize: _Pixels
    crop: _Pixels
    interpolation: _Interpolation
    mean: Annotated[tuple[float, ...], Field(min_length=3, max_length=3)]
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=3, max_length=3)]
    squash: bool = False
    keep_aspect: bool = False
    reduced_decode: bool = False
    exact_resize: bool = True


@dataclass(frozen=True, slots=True)
class RejectedImage:
    """An image that could not be used, and why."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class RunFacts(_CacheRecord):
    """What all layers of an extraction have in common.

    Attributes
    ----------
    image_set : str
        Name of the CSV file under ``cache/sets/``.
    model, weights : str
        As the user named the one, and where the other came from.
    weights_random : bool
        The weights were never trained: the features are for testing only.
    adjustments : dict
        How the preprocessing differs from that of the weights: arguments of `FrozenBase`.
    precision, dtype : str
        In which numbers the base computed (``fp32``, ``bf16`` or ``fp16``; ``""`` where features
        were imported), and how the features are stored (``float16`` or ``float32``).
    views : int
        Augmented views of each training image, beside the plain one.
    policy : str or None
        How they were made.
    """

    image_set: str
    model: str
    weights: str
    weights_random: bool
    adjustments: Adjustments
    precision: _Computed
    dtype: _Storage
    views: ViewCount = 0
    policy: str | None = None


@dataclass(frozen=True, kw_only=True)
class LayerFacts(_CacheRecord):
    """Where a layer's features are.

    Attributes
    ----------
    layer, alias : str, str or None
        torchvision's name and Keras'.
    bank : str
        Name of the bank's folder.
    fingerprint : str
        64 hexadecimal digits.
    axes : str
        What the axes of a stored row are.
    view_bank, view_fingerprint : str or None
        Where the augmented views' features are; None where there are none.
    """

    layer: str
    alias: str | None
    bank: _BankName
    fingerprint: Digest
    axes: _Axes
    view_bank: _BankName | None = None
    view_fingerprint: Digest | None = None


@dataclass(frozen=True, kw_only=True)
class FeatureSource(RunFacts, LayerFacts):
    """Where features come from: one layer of one image set in the cache, pooled in one way.

    Attributes
    ----------
    stored_pool : str
        How the rows in the bank are pooled.
    pool : str
        How the features are pooled: `stored_pool`, or another where rows are stored unpooled.
    split_digests : dict of str to str, optional
        The images and labels of each split, as they were when a head was fitted.
    """

    stored_pool: _Pool
    pool: _Pool
    split_digests: dict[str, Digest] | None = None

    _sparse = model_serializer(mode="wrap")(_without_defaults)

    def __hash__(self) -> int:
        return hash((self.image_set, self.layer, self.fingerprint, self.pool, self.views))

    def with_views(self, views: int) -> Self:
        """Return it with the first so many views, or with none."""
        if views:
            return replace(self, views=views)
        return replace(self, views=0, policy=None, view_bank=None, view_fingerprint=None)

    @property
    def layer_name(self) -> str:
        """The layer's alias if it has one, else its own name."""
        return self.alias or self.layer

    @property
    def slug(self) -> str:
        """Model, layer, pooling and changes to the preprocessing as part of a file's name."""
        return slug("-".join([self.model, self.layer_name, *self._particulars]))

    def __str__(self) -> str:
        """Name model and layer, and what is particular about them."""
        particulars = f" ({', '.join(self._particulars)})" if self._particulars else ""
        return f"{self.model} {self.layer_name}{particulars}"

    @property
    def _particulars(self) -> list[str]:
        size = self.adjustments.get("image_size")
        squash = self.adjustments.get("squash")
        return [
            *([] if size is None else ["x".join(map(str, size))]),
            *([] if squash is None else ["squash" if squash else "crop"]),
            *(key for key in ("keep_aspect", "reduced_decode") if self.adjustments.get(key)),
            *filter(None, [self.adjustments.get("interpolation")]),
            *([] if self.pool == "none" else [self.pool]),
            *([f"{self.views} views {self.policy}"] if self.views else []),
        ]


@dataclass(frozen=True, kw_only=True)
class ExtractedLayer(LayerFacts):
    """A layer that was extracted.

    Attributes
    ----------
    aliases : list of str
        All names by which the layer can be asked for, beside its own.
    pool : str
        How the activations are pooled.
    shape : list of int
        Of one image's pooled activation.
    """

    aliases: list[str]
    pool: _Pool
    shape: list[_Size]


@dataclass(frozen=True, kw_only=True)
class Extraction(RunFacts):
    """What an extraction did; its record under ``cache/runs/``.

    Attributes
    ----------
    time : str
        When it was done, in ISO format.
    image_set_digest : str
        The digest of its images and labels.
    image_set_sha256 : str or None
        SHA-256 of the image set's file.
    layers : list of ExtractedLayer
        In the order of computation.
    images, computed, cached : int
        Usable images, and how many different ones were computed and found in the cache.
    rejected : list of RejectedImage
        Images that could not be used, with the reason.
    leaks, conflicts : list of str
        Digests of images that stand in several splits, and under several labels.
    bytes_written : int
        Bytes of the features added.
    seconds : float
        Wall time.
    views_computed : int
        How many of all augmented views were computed.
    augmentation : dict or None
        What of the policy decides the pixels.
    imported_from : str or None
        The file whose features were imported.
    """

    SCHEMA: ClassVar[int] = 4

    time: _Time
    image_set_digest: Digest
    layers: list[ExtractedLayer]
    image_set_sha256: Digest | None = None
    images: _Count = 0
    computed: _Count = 0
    cached: _Count = 0
    rejected: list[RejectedImage] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    bytes_written: _Count = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    views_computed: _Count = 0
    augmentation: Augmentation | None = None
    imported_from: str | None = None

    @property
    def sources(self) -> list[FeatureSource]:
        """The features that it offers, one for each layer."""
        return [
            FeatureSource(
                **facts_of(self, RunFacts),
                **facts_of(layer, LayerFacts),
                stored_pool=layer.pool,
                pool=layer.pool,
            )
            for layer in self.layers
        ]


@dataclass(frozen=True, kw_only=True)
class StoredLayer(_CacheRecord):
    """What ``bank.json`` says of a layer.

    Attributes
    ----------
    alias : str or None
        Keras' name.
    shape : list of int
        Of a row.
    canary : list of list of float
        Reference features, as `FrozenBase.canary` gives them; empty where they were imported.
    """

    alias: str | None
    shape: list[_Size]
    canary: Annotated[list[list[float]], AfterValidator(_is_even)]


@with_config(_STRICT)
class ImportedArray(TypedDict):
    """The array that imported features come from."""

    file: str
    sha256: Digest


@dataclass(frozen=True, kw_only=True)
class BankRecord(_CacheRecord):
    """``bank.json``: what all features of a bank have in common, and its layers.

    Attributes
    ----------
    fingerprint : str
        64 hexadecimal digits.
    model, weights_name : str
        As the user named the one, and where the other came from.
    weights_random : bool
        The weights were never trained.
    transform : TransformFacts or None
        The preprocessing; None where features were imported.
    pool : str
        How the activations are pooled.
    precision : dict
        In which numbers they were computed and are stored.
    layers : dict of str to StoredLayer
        By name.
    created : str or None
        When the bank was made, in ISO format; None before.
    schema, architecture, weights, augmentation : optional
        What else decides a feature's value, see `FrozenBase.provenance`.
    policy : str or None
        The name of how augmented views were made; None of plain images.
    versions : dict of str to str, optional
        Of the libraries.
    source : dict, optional
        The array that was imported.
    """

    fingerprint: Digest
    model: str
    weights_name: str
    weights_random: bool
    transform: TransformFacts | None
    pool: _Pool
    precision: Precision
    layers: dict[str, StoredLayer]
    created: _Time | None = None
    schema: int | None = None
    architecture: str | None = None
    weights: str | None = None
    augmentation: Augmentation | None = None
    policy: str | None = None
    versions: dict[str, str] | None = None
    source: ImportedArray | None = None

    _sparse = model_serializer(mode="wrap")(_without_defaults)

    @classmethod
    def imported(
        cls,
        fingerprint: str,
        model: str,
        shapes: Mapping[str, Sequence[int]],
        *,
        dtype: str = "float16",
        source: ImportedArray | None = None,
    ) -> Self:
        """Return that of features that were made elsewhere: layers by the shapes of a row."""
        return cls(
            fingerprint=fingerprint,
            model=model,
            weights_name=IMPORTED,
            weights_random=False,
            transform=None,
            pool="none",
            precision={"storage": dtype},
            layers={
                layer: StoredLayer(alias=None, shape=list(shape), canary=[])
                for layer, shape in shapes.items()
            },
            source=source,
        )

    @classmethod
    def upgraded(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Read how imports said that they have no preprocessing."""
        unknown = content.get("transform") == {"crop": None}
        return {**content, "transform": None} if unknown else content


@dataclass(frozen=True, kw_only=True)
class ExportRecord(Record):
    """What an exported file says of its features; `bank` describes their layer alone."""

    format: Literal[2]
    selection: FeatureSource
    bank: BankRecord

    @classmethod
    def upgraded(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Upgrade what it says of the bank."""
        bank = content.get("bank")
        return {**content, "bank": BankRecord.upgraded(bank)} if isinstance(bank, dict) else content


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

    clf: Annotated[str, _among(Classifier)]
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    hyperparameters: dict[str, Json] = field(default_factory=dict)
    multilabel: bool = False
    temperature: Annotated[float, Field(ge=1e-3, le=1e3)] = 1.0
    scores: dict[str, Json] = field(default_factory=dict)
    source: FeatureSource | None = None

    @classmethod
    def refusal(cls, path: Path, error: Exception) -> BottleneckError:
        """Return what to raise where a head cannot be read."""
        return DataError(f"the head {str(path)!r} cannot be read ({error}); fit it again")


@with_config(ConfigDict(**_STRICT, extra="forbid"))
class HeadSettings(TypedDict, total=False):
    """Numbers that a head's model has beside its arrays, see `bottleneck.heads.models`."""

    dropout: Annotated[float, Field(ge=0, lt=1)]
    n_neighbors: _Size
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

    created: _Time
    kind: Annotated[str, _among(Literal["affine", "mlp", "knn"])]
    settings: HeadSettings
    n_features: _Size
    weights_sha256: Digest

    @classmethod
    def upgraded(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Read how heads of no known features said so."""
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
    settings: dict[str, Json]
    augmentation: Augmentation
    boundary: str | None
    pool: _Pool
    image_set: str
    split_digests: dict[str, Digest]
    started_from: FeatureSource
    best_epoch: _Count
    epochs: _Count
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
    weights_sha256: Digest

    @classmethod
    def refusal(cls, path: Path, error: Exception) -> BottleneckError:
        """Return what to raise where a model cannot be read."""
        return WeightsError(
            f"the fine-tuned model {str(path)!r} cannot be read ({error}); fine-tune it again"
        )


def known_source(source: FeatureSource | None) -> FeatureSource:
    """Return a head's `source`; `DataError` where it has none."""
    if source is None:
        raise DataError(
            "the head does not say which features it belongs to; fit it with the source that "
            "features.provenance gives"
        )
    return source


def facts_of(record: Record, kind: type[Record]) -> dict[str, Any]:
    """Return the facts that a record shares with all of a kind, to make another of them."""
    return {each.name: getattr(record, each.name) for each in fields(kind)}  # type: ignore[arg-type]


def as_dict(record: Record, kind: type[Record]) -> dict[str, Any]:
    """Return the facts that a record shares with all of a kind, as JSON holds them."""
    # Pydantic's own JSON would have null for nan, which must not be written unseen.
    found: dict[str, Any] = json.loads(json.dumps(_adapter(kind).dump_python(record)))
    return found


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON with a digest of itself, whole or not at all.

    Raises
    ------
    OSError
        The folder cannot be written.
    ValueError
        A number is not finite.
    """
    version = {} if record.SCHEMA is None else {"schema": record.SCHEMA}
    write_json(path, {**version, **record.as_dict()})


def read_record(path: Path, kind: type[_R]) -> _R:
    """Read what `write_record` wrote.

    Raises
    ------
    BottleneckError
        What the kind's `refusal` says: the file cannot be read, is damaged, lacks a key, or has a
        value that cannot be.
    """
    try:
        return parse_record(read_json(path), kind)
    except (OSError, ValueError) as error:
        raise kind.refusal(path, error) from error


def parse_record(content: dict[str, Any], kind: type[_R]) -> _R:
    """Check what JSON held; a `ValueError` says what was found, and what was expected."""
    if kind.SCHEMA is not None:
        found = content.get("schema")
        if type(found) is not int:
            raise ValueError(f"'schema' is {reprlib.repr(found)}, expected {kind.SCHEMA}")
        if found != kind.SCHEMA:
            raise OtherVersion(
                f"it is of another version of this package (schema {found}, expected {kind.SCHEMA})"
            )
    try:
        return _adapter(kind).validate_json(json.dumps(kind.upgraded(content)))  # type: ignore[no-any-return]
    except ValidationError as error:
        raise ValueError(_sentence(error)) from error


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)
"""Returns what checks and writes a kind of record; it is made when it is first needed."""


def _sentence(error: ValidationError) -> str:
    """Return what was found and what was expected instead, of the first wrong key."""
    wrong = error.errors(include_url=False, include_context=False)[0]
    key, message = ".".join(map(str, wrong["loc"])), wrong["msg"]
    if wrong["type"] == "missing":
        return f"it has no {key!r}"
    if not key:
        return message
    if wrong["type"] == "extra_forbidden":
        return f"it has {key!r}, which is not known"
    for prefix in ("Input should be ", "Value error, "):
        message = message.removeprefix(prefix)
    expected = message.replace("String should match", "text that matches")
    return f"{key!r} is {reprlib.repr(wrong['input'])}, expected {expected}"
