"""What a bank says of itself: all that decides a feature's value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired, Self

from pydantic import AfterValidator, Field, model_serializer, with_config
from typing_extensions import TypedDict

from bottleneck.records import values
from bottleneck.records.record import STRICT, CacheRecord, Record, without_defaults

IMPORTED = "imported"
"""What the weights of a model are called that computed features elsewhere."""


def _is_even(rows: list[list[float]]) -> list[list[float]]:
    if len(set(map(len, rows))) > 1:
        raise ValueError("rows of equal length")
    return rows


@with_config(STRICT)
class Precision(TypedDict):
    """In which numbers features are stored and, unless they were imported, were computed."""

    storage: values.Storage
    compute: NotRequired[values.Computed]


@with_config(STRICT)
class Augmentation(TypedDict):
    """All that decides the pixels of augmented views, see `bottleneck.augment.Policy`."""

    scheme: int
    steps: list[dict[str, dict[str, values.Json]]]


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

    resize: values.Pixels
    crop: values.Pixels
    interpolation: values.Interpolation
    mean: Annotated[tuple[float, ...], Field(min_length=3, max_length=3)]
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=3, max_length=3)]
    squash: bool = False
    keep_aspect: bool = False
    reduced_decode: bool = False
    exact_resize: bool = True


@dataclass(frozen=True, kw_only=True)
class StoredLayer(CacheRecord):
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
    shape: list[values.Size]
    canary: Annotated[list[list[float]], AfterValidator(_is_even)]


@with_config(STRICT)
class ImportedArray(TypedDict):
    """The array that imported features come from."""

    file: str
    sha256: values.Digest


@dataclass(frozen=True, kw_only=True)
class BankRecord(CacheRecord):
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

    fingerprint: values.Digest
    model: str
    weights_name: str
    weights_random: bool
    transform: TransformFacts | None
    pool: values.Pool
    precision: Precision
    layers: dict[str, StoredLayer]
    created: values.Time | None = None
    schema: int | None = None
    architecture: str | None = None
    weights: str | None = None
    augmentation: Augmentation | None = None
    policy: str | None = None
    versions: dict[str, str] | None = None
    source: ImportedArray | None = None

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
        """Return that of features that were made elsewhere: layers by the shapes of a row.

        Parameters
        ----------
        fingerprint : str
            SHA-256 of what was imported, hexadecimal.
        model : str
            Name of the model that the features are said to be of.
        shapes : mapping of str to sequence of int
            Layer to the shape of a row.
        dtype : str
            ``float16`` or ``float32``.
        source : ImportedArray, optional
            Where the features came from.

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
        """Read how imports said that they have no preprocessing.

        Parameters
        ----------
        content : dict of str to Any
            What JSON held.

        Returns
        -------
        dict of str to Any
        """
        unknown = content.get("transform") == {"crop": None}
        return {**content, "transform": None} if unknown else content
