"""Records of extractions: where features come from, and what is in an exported file."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_serializer, with_config
from typing_extensions import TypedDict

from bottleneck.errors import counted
from bottleneck.files import slug
from bottleneck.records import record
from bottleneck.records.banks import IMPORTED, Augmentation, BankRecord
from bottleneck.records.record import STRICT, CacheRecord, Record, facts_of, without_defaults
from bottleneck.settings.values import ViewCount


@with_config(ConfigDict(**STRICT, extra="forbid"))
class Adjustments(TypedDict, total=False):
    """Changes of the preprocessing: arguments of `FrozenBase`."""

    image_size: record.Pixels
    interpolation: record.Interpolation
    squash: bool
    keep_aspect: bool
    reduced_decode: bool
    exact_resize: bool
    max_value: record.Size
    max_pixels: record.Size


@dataclass(frozen=True, kw_only=True)
class RunFacts(CacheRecord):
    """Facts that all layers of an extraction have in common.

    Attributes
    ----------
    image_set : str
        Name of the CSV file under ``cache/sets/``.
    model, weights : str
        Name of the model as given by the user, and origin of the weights.
    weights_random : bool
        Whether the weights are random, so that the features are for testing only.
    adjustments : dict
        Changes of the preprocessing: arguments of `FrozenBase`.
    precision, dtype : str
        Precision of the base (``fp32``, ``bf16`` or ``fp16``; ``""`` for imported features), and
        type of the stored features (``float16`` or ``float32``).
    views : int
        Augmented views of each training image, besides the unaugmented image.
    policy : str or None
        Name of their augmentation policy.
    """

    image_set: str
    model: str
    weights: str
    weights_random: bool
    adjustments: Adjustments
    precision: record.Computed
    dtype: record.Storage
    views: ViewCount = 0
    policy: str | None = None

    @property
    def is_imported(self) -> bool:
        """Whether the features are an imported array, which no network computes again."""
        return self.weights == IMPORTED

    @property
    def made_by(self) -> str:
        """The command that stored the features, and stores them again."""
        return "bottleneck cache import" if self.is_imported else "bottleneck extract"


@dataclass(frozen=True, kw_only=True)
class LayerFacts(CacheRecord):
    """The location of a layer's features.

    Attributes
    ----------
    layer, alias : str, str or None
        torchvision's name and Keras' name.
    typed : str or None
        The name by which the user chose the layer, which messages and tables show; None in older
        records.
    bank : str
        Name of the bank's folder.
    fingerprint : str
        64 hexadecimal digits.
    axes : str
        The axes of a stored row.
    view_bank, view_fingerprint : str or None
        The bank of augmented views, and its fingerprint; None if there are no views.
    """

    layer: str
    alias: str | None
    bank: record.BankName
    fingerprint: record.Digest
    axes: record.Axes
    view_bank: record.BankName | None = None
    view_fingerprint: record.Digest | None = None
    typed: str | None = field(default=None, compare=False)

    @property
    def layer_name(self) -> str:
        """The name to show: as typed, else the alias, else the layer's own name."""
        return self.typed or self.alias or self.layer


@dataclass(frozen=True, kw_only=True)
class FeatureSource(RunFacts, LayerFacts):
    """The source of features: one layer of one image set in the cache, with one pooling.

    Attributes
    ----------
    stored_pool : str
        Pooling of the rows in the bank.
    pool : str
        Pooling of the features: `stored_pool`, or another one if rows are stored unpooled.
    split_digests : dict of str to str, optional
        Digest of the images and labels of each split when a head was fitted.
    """

    stored_pool: record.Pool
    pool: record.Pool
    split_digests: dict[str, record.Digest] | None = None

    _sparse = model_serializer(mode="wrap")(without_defaults)

    def __hash__(self) -> int:
        return hash((self.features, self.views))

    @property
    def parts(self) -> "tuple[FeatureSource, ...]":
        """The source itself, as the only one of its parts, see `JoinedSource`."""
        return (self,)

    @property
    def features(self) -> tuple[Any, ...]:
        """What tells features of unaugmented images apart."""
        return self.image_set, self.layer, self.fingerprint, self.pool

    @property
    def is_vector(self) -> bool:
        """Whether the layer is a vector, which no pooling changes."""
        return self.axes == "C" and self.stored_pool == "none"

    def with_views(self, views: int) -> Self:
        """Return the source with only the first views, or with none.

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

    def logged(self) -> dict[str, Any]:
        """Return the source in JSON types, as an experiment of a sweep has it in its settings."""
        return self.as_dict()

    @property
    def slug(self) -> str:
        """Return model, layer, pooling and changed preprocessing as a part of a file name."""
        return slug("-".join([self.model, self.layer_name, *self._particulars]))

    def __str__(self) -> str:
        """Return model and layer, with everything that differs from the defaults."""
        particulars = f" ({', '.join(self._particulars)})" if self._particulars else ""
        return f"{self.model} {self.layer_name}{particulars}"

    @property
    def _particulars(self) -> list[str]:
        size = self.adjustments.get("image_size")
        squash, white = self.adjustments.get("squash"), self.adjustments.get("max_value")
        return [
            *([] if size is None else ["x".join(map(str, size))]),
            *([] if squash is None else ["squash" if squash else "crop"]),
            *(key for key in ("keep_aspect", "reduced_decode") if self.adjustments.get(key)),
            *filter(None, [self.adjustments.get("interpolation")]),
            *([] if white is None else [f"max_value {white}"]),
            *([] if self.pool == "none" else [self.pool]),
            *([f"{counted(self.views, 'view')} {self.policy}"] if self.views else []),
        ]


@dataclass(frozen=True, slots=True)
class RejectedImage:
    """An image that could not be used, with the reason."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ExtractedLayer(LayerFacts):
    """The entry of an extracted layer.

    Attributes
    ----------
    aliases : list of str
        All names of the layer besides its own, such as the module that it ends.
    pool : str
        Pooling of the activations.
    shape : list of int
        Shape of one image's pooled activation.
    """

    aliases: list[str]
    pool: record.Pool
    shape: list[record.Size]


@dataclass(frozen=True, kw_only=True)
class Extraction(RunFacts):
    """The record of an extraction, in ``cache/runs/``.

    Attributes
    ----------
    time : str
        Time of the extraction, in ISO format.
    image_set_digest : str
        The digest of its images and labels.
    image_set_sha256 : str or None
        SHA-256 of the image set's file.
    layers : list of ExtractedLayer
        In the order of computation.
    images, computed, cached, copies : int
        Number of usable images, of distinct ones computed and found in the cache, and of copies of
        these: `images` is the sum of the other three, except in records of older versions.
    rejected : list of RejectedImage
        Images that could not be used, with the reason.
    ignored : list of str
        Files and folders that were left out, at most 1,000: see `bottleneck.ImageSet`.
    small_classes, lost_classes : dict of str to int, list of str
        Classes left out for their numbers of images, and those without an image that can be used.
    leaks, conflicts : list of str
        Digests of images with several splits, and of images with several labels.
    bytes_written : int
        Size of the added features.
    seconds : float
        Wall time.
    views_computed : int
        Number of augmented views that were computed.
    augmentation : dict or None
        The part of the policy that affects pixels.
    several_pages : list of str
        Paths of computed images whose files have more pages or frames; only the first is used.
    deep_images, deep_maximum : int
        Number of computed images of 16 bits whose files do not state the value of white, and about
        the largest value in them.
    imported_from : str or None
        The file that features were imported from.
    """

    SCHEMA: ClassVar[int] = 4

    time: record.Time
    image_set_digest: record.Digest
    layers: list[ExtractedLayer]
    image_set_sha256: record.Digest | None = None
    images: record.Count = 0
    computed: record.Count = 0
    cached: record.Count = 0
    copies: record.Count = 0
    rejected: list[RejectedImage] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    bytes_written: record.Count = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    views_computed: record.Count = 0
    augmentation: Augmentation | None = None
    several_pages: list[str] = field(default_factory=list)
    deep_images: record.Count = 0
    deep_maximum: record.Count = 0
    imported_from: str | None = None
    ignored: list[str] = field(default_factory=list)
    small_classes: dict[str, record.Count] = field(default_factory=dict)
    lost_classes: list[str] = field(default_factory=list)

    @property
    def sources(self) -> list[FeatureSource]:
        """The sources of its features, one for each layer."""
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
    """The provenance in an exported file; `bank` describes only the exported layer.

    `format` is raised when older files can no longer be read.
    """

    format: Literal[2]
    selection: FeatureSource
    bank: BankRecord

    @classmethod
    def upgraded(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Upgrade the entry of the bank.

        Parameters
        ----------
        content : dict of str to Any
            Content of the JSON file.

        Returns
        -------
        dict of str to Any
        """
        bank = content.get("bank")
        return {**content, "bank": BankRecord.upgraded(bank)} if isinstance(bank, dict) else content
