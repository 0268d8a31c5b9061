"""The source of features: one layer of one image set in the cache."""

from dataclasses import dataclass, field, replace
from typing import Any, Self

from pydantic import ConfigDict, model_serializer, with_config
from typing_extensions import TypedDict

from bottleneck.errors import counted
from bottleneck.files import slug
from bottleneck.records import record
from bottleneck.records.banks import IMPORTED
from bottleneck.records.record import STRICT, CacheRecord, without_defaults
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
        squash = self.adjustments.get("squash")
        return [
            *([] if size is None else ["x".join(map(str, size))]),
            *([] if squash is None else ["squash" if squash else "crop"]),
            *(key for key in ("keep_aspect", "reduced_decode") if self.adjustments.get(key)),
            *filter(None, [self.adjustments.get("interpolation")]),
            *(
                f"{key} {self.adjustments[key]}"
                for key in ("max_value",)
                if key in self.adjustments
            ),
            *([] if self.pool == "none" else [self.pool]),
            *([f"{counted(self.views, 'view')} {self.policy}"] if self.views else []),
        ]
