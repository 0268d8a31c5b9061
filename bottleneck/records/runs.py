"""What an extraction did, and where the features are that it left."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_serializer, with_config
from typing_extensions import TypedDict

from bottleneck.errors import DataError
from bottleneck.files import slug
from bottleneck.records import values
from bottleneck.records.banks import Augmentation, BankRecord
from bottleneck.records.record import STRICT, CacheRecord, Record, facts_of, without_defaults
from bottleneck.settings.values import ViewCount


@with_config(ConfigDict(**STRICT, extra="forbid"))
class Adjustments(TypedDict, total=False):
    """How the preprocessing differs from that of the weights: arguments of `FrozenBase`."""

    image_size: values.Pixels
    interpolation: values.Interpolation
    squash: bool
    keep_aspect: bool
    reduced_decode: bool
    exact_resize: bool


@dataclass(frozen=True, slots=True)
class RejectedImage:
    """An image that could not be used, and why."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class RunFacts(CacheRecord):
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
    precision: values.Computed
    dtype: values.Storage
    views: ViewCount = 0
    policy: str | None = None


@dataclass(frozen=True, kw_only=True)
class LayerFacts(CacheRecord):
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
    bank: values.BankName
    fingerprint: values.Digest
    axes: values.Axes
    view_bank: values.BankName | None = None
    view_fingerprint: values.Digest | None = None


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

    stored_pool: values.Pool
    pool: values.Pool
    split_digests: dict[str, values.Digest] | None = None

    _sparse = model_serializer(mode="wrap")(without_defaults)

    def __hash__(self) -> int:
        return hash((self.image_set, self.layer, self.fingerprint, self.pool, self.views))

    def with_views(self, views: int) -> Self:
        """Return it with the first so many views, or with none.

        Parameters
        ----------
        views : int
            Number of augmented views.

        Returns
        -------
        FeatureSource
        """
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
    pool: values.Pool
    shape: list[values.Size]


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

    time: values.Time
    image_set_digest: values.Digest
    layers: list[ExtractedLayer]
    image_set_sha256: values.Digest | None = None
    images: values.Count = 0
    computed: values.Count = 0
    cached: values.Count = 0
    rejected: list[RejectedImage] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    bytes_written: values.Count = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    views_computed: values.Count = 0
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
class ExportRecord(Record):
    """What an exported file says of its features; `bank` describes their layer alone."""

    format: Literal[2]
    selection: FeatureSource
    bank: BankRecord

    @classmethod
    def upgraded(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Upgrade what it says of the bank.

        Parameters
        ----------
        content : dict of str to Any
            What JSON held.

        Returns
        -------
        dict of str to Any
        """
        bank = content.get("bank")
        return {**content, "bank": BankRecord.upgraded(bank)} if isinstance(bank, dict) else content


def known_source(source: FeatureSource | None) -> FeatureSource:
    """Return a head's `source`; `DataError` where it has none.

    Parameters
    ----------
    source : FeatureSource or None
        The head's.

    Returns
    -------
    FeatureSource
        The same.

    Raises
    ------
    DataError
        It is None.
    """
    if source is None:
        raise DataError(
            "the head does not say which features it belongs to; fit it with the source that "
            "features.provenance gives"
        )
    return source
