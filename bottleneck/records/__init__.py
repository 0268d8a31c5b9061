"""Records of extractions, banks, heads and models, with each fact declared once."""

from bottleneck.records.banks import IMPORTED, Augmentation, BankRecord, StoredLayer, TransformFacts
from bottleneck.records.heads import HeadFacts, HeadRecord, Judged, ModelFacts, ModelRecord
from bottleneck.records.joined import AnySource, JoinedSource, known_source, single_source
from bottleneck.records.record import (
    Digest,
    Json,
    Record,
    as_dict,
    facts_of,
    parse_record,
    read_record,
    sentence_of,
    write_record,
)
from bottleneck.records.runs import (
    Adjustments,
    ExportRecord,
    ExtractedLayer,
    Extraction,
    FeatureSource,
    LayerFacts,
    RejectedImage,
    RunFacts,
)

__all__ = [
    "IMPORTED",
    "Adjustments",
    "AnySource",
    "Augmentation",
    "BankRecord",
    "Digest",
    "ExportRecord",
    "ExtractedLayer",
    "Extraction",
    "FeatureSource",
    "HeadFacts",
    "HeadRecord",
    "JoinedSource",
    "Json",
    "Judged",
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
    "sentence_of",
    "single_source",
    "write_record",
]
