"""What an exported file says of itself."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from bottleneck.errors import BottleneckError, WeightsError
from bottleneck.records import record
from bottleneck.records.banks import TransformFacts
from bottleneck.records.record import Record

SHIPPED = "bottleneck"
"""The key of the record in the metadata of an ``.onnx`` file."""

_PREFIXES = re.compile("^(?:(?:timm|hf-hub|local-dir|open_clip|hf):)+")
_OF_NAMES = ("timm:", "hf-hub:", "open_clip:")
"""Prefixes that no path follows."""
_OF_HUB = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(@.*)?")
"""Names on the Hub, ORG/NAME with or without a revision."""


def public_name(name: str) -> str:
    """Return the name of a base or of weights without the folders of this machine.

    Parameters
    ----------
    name : str
        A name, or a path, possibly after prefixes such as ``local-dir:``.

    Returns
    -------
    str
        The name; of a path the last part, after its prefixes.
    """
    place = _PREFIXES.sub("", name)
    prefix = name[: len(name) - len(place)]
    is_name = prefix.endswith(_OF_NAMES) or (
        prefix.endswith("hf:") and _OF_HUB.fullmatch(place) and not Path(place).is_dir()
    )
    path = Path(place)
    return name if is_name else prefix + (path.name or path.absolute().name)


@dataclass(frozen=True, kw_only=True)
class ShippedRecord(Record):
    """The record in an exported ``.onnx`` or ``.pt2`` file, as JSON.

    Attributes
    ----------
    classes : tuple of str
        k labels, in the order of the probabilities.
    multilabel : bool
        Whether an image may have several classes, or none.
    thresholds : tuple of float
        The probability of each class above which an image has it; empty unless `multilabel`, as the
        class is then the one with the highest probability.
    input : str
        ``pixels``: float32 of shape (n, 3, height, width), preprocessed. ``images``: uint8 RGB of
        shape (n, height, width, 3), whose preprocessing is in the file.
    transform : TransformFacts
        The preprocessing, in the file or before it.
    precision : str
        ``fp32``, ``fp16`` or ``int8``, of the base; the head is always fp32.
    head, clf : str
        Name and classifier of the head.
    model, weights : str
        Name of the base, and of its weights.
    layers, pools : tuple of str
        Layers and their poolings, in the order of the features.
    image_set : str
        Name of the images that the head was fitted on.
    fingerprints : tuple of str
        Fingerprint of each layer's features.
    head_sha256 : str
        SHA-256 of the head's ``head.json``, which has that of its weights: it tells versions apart.
    version : str
        Version of this package.
    created : str
        Time of the export, in ISO format.
    """

    SCHEMA: ClassVar[int] = 1

    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    multilabel: bool
    thresholds: tuple[Annotated[float, Field(gt=0, lt=1)], ...]
    input: Annotated[str, record.among(Literal["pixels", "images"])]
    transform: TransformFacts
    precision: Annotated[str, record.among(Literal["fp32", "fp16", "int8"])]
    head: str
    clf: str
    model: str
    weights: str
    layers: tuple[str, ...]
    pools: tuple[str, ...]
    image_set: str
    fingerprints: tuple[record.Digest, ...]
    head_sha256: record.Digest
    version: str
    created: record.Time

    def as_json(self) -> str:
        """Return the record as the text in the file."""
        return json.dumps({"schema": self.SCHEMA, **self.as_dict()})

    @classmethod
    def of_json(cls, text: str) -> Self:
        """Read a record from `as_json`.

        Parameters
        ----------
        text : str
            JSON.

        Returns
        -------
        ShippedRecord

        Raises
        ------
        ValueError
            It is damaged, or another version wrote it.
        """
        return record.parse_record(json.loads(text), cls)


@dataclass(frozen=True, kw_only=True)
class ArchivedBaseRecord(Record):
    """``base.json`` in an exported ``.zip``.

    Attributes
    ----------
    base : str
        Name of the base.
    weights : str
        Name of the weights.
    layer : str
        The deepest layer that the weights reach.
    transform : TransformFacts
        The preprocessing that belongs to the weights.
    weights_sha256 : str
        SHA-256 of ``base.safetensors``.
    """

    SCHEMA: ClassVar[int] = 1
    ERROR: ClassVar[type[BottleneckError]] = WeightsError
    SENTENCE: ClassVar[str] = (
        "the exported base {path!r} cannot be read ({error}); unpack its .zip again"
    )

    base: str
    weights: str
    layer: str
    transform: TransformFacts
    weights_sha256: record.Digest
