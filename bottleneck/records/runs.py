"""The record of an extraction, and of an exported file."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from bottleneck.records import record
from bottleneck.records.banks import Augmentation, BankRecord
from bottleneck.records.record import STRICT, Record, facts_of
from bottleneck.records.sources import FeatureSource, LayerFacts, RunFacts


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
