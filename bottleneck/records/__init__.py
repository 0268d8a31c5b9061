"""Records of extractions, banks, heads and models, with each fact declared once."""

from bottleneck.records.banks import IMPORTED, Augmentation, BankRecord, StoredLayer, TransformFacts
from bottleneck.records.heads import HeadFacts, HeadRecord, Judged, ModelFacts, ModelRecord
from bottleneck.records.joined import (
    AnySource,
    JoinedSource,
    known_source,
    single_source,
    with_parts,
)
from bottleneck.records.predictions import Prediction
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
from bottleneck.records.shards import ExtractedShard, ShardRecord
from bottleneck.records.shipped import SHIPPED, ArchivedBaseRecord, ShippedRecord, public_name

__all__ = [
    "IMPORTED",
    "SHIPPED",
    "Adjustments",
    "AnySource",
    "ArchivedBaseRecord",
    "Augmentation",
    "BankRecord",
    "Digest",
    "ExportRecord",
    "ExtractedLayer",
    "ExtractedShard",
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
    "Prediction",
    "Record",
    "RejectedImage",
    "RunFacts",
    "ShardRecord",
    "ShippedRecord",
    "StoredLayer",
    "TransformFacts",
    "as_dict",
    "facts_of",
    "known_source",
    "parse_record",
    "public_name",
    "read_record",
    "sentence_of",
    "single_source",
    "with_parts",
    "write_record",
]
