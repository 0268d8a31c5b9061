"""The record of a bank: everything that affects a feature's value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NotRequired, Self

from pydantic import AfterValidator, Field, model_serializer, with_config
from typing_extensions import TypedDict

from bottleneck.records import record
from bottleneck.records.record import STRICT, CacheRecord, Record, without_defaults

IMPORTED = "imported"
"""Weights name of a model that computed imported features."""
FINETUNED = "finetuned"
"""Weights name of a fine-tuned model."""


def _is_even(rows: list[list[float]]) -> list[list[float]]:
    if len(set(map(len, rows))) > 1:
        raise ValueError("rows of equal length")
    return rows


@with_config(STRICT)
class Precision(TypedDict):
    """Types in which features were computed, unless imported, and are stored."""

    storage: record.Storage
    compute: NotRequired[record.Computed]


@with_config(STRICT)
class Augmentation(TypedDict):
    """Everything that affects the pixels of augmented views, see `bottleneck.augment.Policy`."""

    scheme: int
    steps: list[dict[str, dict[str, record.Json]]]


@dataclass(frozen=True)
class TransformFacts(Record):
    """Preprocessing: resize, crop the centre, scale to [0, 1], normalise.

    Attributes
    ----------
    resize : (int, int)
        Height and width in pixels of the box that the resized image covers, or fills.
    crop : (int, int)
        Height and width in pixels of the centre crop, which is the base's input.
    interpolation : str
        Pillow's name of the interpolation.
    mean, std : tuple of float
        Per channel, in the range [0, 1].
    squash : bool
        Fill the box and ignore the proportions. Otherwise the proportions are kept, and the image
        covers the box: for a square box, its shorter side gets the length of the box's side.
    keep_aspect : bool
        Do not crop: the base sees the whole image, whose shorter side has the length of the box's.
    reduced_decode : bool
        Decode a large JPEG at a half, a quarter or an eighth of its size, but at least at twice the
        size that it is resized to.
    max_value : int or None
        The value of white in pixels of more than 8 bits; None if each file decides.
    exact_resize : bool
        Resize as Pillow does, bit for bit. Otherwise, if both sides shrink, the uint8 kernels of
        `torch.nn.functional.interpolate` are used, which do the same arithmetic with fewer bits and
        are several times faster: one value in a few hundred differs by 1 of 255.
    multiple : int or None
        What sides are rounded to multiples of, if images keep their proportions.
    """

    resize: record.Pixels
    crop: record.Pixels
    interpolation: record.Interpolation
    mean: Annotated[tuple[float, ...], Field(min_length=3, max_length=3)]
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=3, max_length=3)]
    squash: bool = False
    keep_aspect: bool = False
    reduced_decode: bool = False
    exact_resize: bool = True
    max_value: record.Size | None = None
    multiple: record.Size | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, handler: Any) -> dict[str, Any]:
        """Leave out what there is not, as in the fingerprints of earlier versions."""
        content: dict[str, Any] = handler(self)
        return {key: value for key, value in content.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class StoredLayer(CacheRecord):
    """The entry of a layer in ``bank.json``.

    Attributes
    ----------
    alias, typed : str or None
        Keras' name of the layer, and the name by which the user last chose it.
    aliases : list of str
        All names of the layer besides its own; empty in older records.
    shape : list of int
        Shape of a row.
    canary : list of list of float
        Reference features, see `FrozenBase.canary`; empty if they were imported.
    """

    alias: str | None
    shape: list[record.Size]
    canary: Annotated[list[list[float]], AfterValidator(_is_even)]
    typed: str | None = None
    aliases: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """All names of the layer besides its own, in older records its alias."""
        return self.aliases or ([self.alias] if self.alias else [])


@with_config(STRICT)
class ImportedArray(TypedDict):
    """The array of imported features."""

    file: str
    sha256: record.Digest


@dataclass(frozen=True, kw_only=True)
class BankRecord(CacheRecord):
    """``bank.json``: what all features of a bank have in common, and its layers.

    Attributes
    ----------
    fingerprint : str
        64 hexadecimal digits.
    model, weights_name : str
        Name of the model as given by the user, and origin of the weights.
    weights_random : bool
        Whether the weights are random.
    transform : TransformFacts or None
        The preprocessing; None for imported features.
    pool : str
        Pooling of the activations.
    precision : dict
        Types in which features were computed and are stored.
    layers : dict of str to StoredLayer
        Layers by name.
    created : str or None
        Time of the bank's creation, in ISO format; None before it is created.
    schema, architecture, weights, augmentation : optional
        Everything else that affects a feature's value, see `FrozenBase.provenance`.
    policy : str or None
        Name of the augmentation policy; None for unaugmented images.
    versions : dict of str to str, optional
        Versions of the libraries.
    source : dict, optional
        The imported array.
    seen : list of str, optional
        SHA-256 of the images that a fine-tuned network was trained or validated on; None in older
        records.
    """

    fingerprint: record.Digest
    model: str
    weights_name: str
    weights_random: bool
    transform: TransformFacts | None
    pool: record.Pool
    precision: Precision
    layers: dict[str, StoredLayer]
    created: record.Time | None = None
    schema: int | None = None
    architecture: str | None = None
    weights: str | None = None
    augmentation: Augmentation | None = None
    policy: str | None = None
    versions: dict[str, str] | None = None
    source: ImportedArray | None = None
    seen: list[record.Digest] | None = None

    _sparse = model_serializer(mode="wrap")(without_defaults)

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
        """Return the record of imported features, with layers given by the shape of a row.

        Parameters
        ----------
        fingerprint : str
            SHA-256 of the imported array and table, hexadecimal.
        model : str
            Given name of the model.
        shapes : mapping of str to sequence of int
            Layer to the shape of a row.
        dtype : str
            ``float16`` or ``float32``.
        source : ImportedArray, optional
            The source of the features.

        Returns
        -------
        BankRecord
        """
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
        """Convert how older imports recorded that they have no preprocessing.

        Parameters
        ----------
        content : dict of str to Any
            Content of the JSON file.

        Returns
        -------
        dict of str to Any
        """
        unknown = content.get("transform") == {"crop": None}
        return {**content, "transform": None} if unknown else content
