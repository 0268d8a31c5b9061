"""Join the labels of an image set to the rows of a bank by digest: X, y, groups and splits."""

from bottleneck.features.commands import cache_option, extract_command
from bottleneck.features.fitted import features_of, has_changed, is_known, seen_by_network
from bottleneck.features.rows import Features, free_memory, load_features, no_images
from bottleneck.features.selection import (
    check_layers,
    join_layers,
    matching_layers,
    select_features,
    select_layers,
    vectors,
)
from bottleneck.features.stored import StreamedRows, columns_of
from bottleneck.images import SPLITS

__all__ = [
    "SPLITS",
    "Features",
    "StreamedRows",
    "cache_option",
    "check_layers",
    "columns_of",
    "extract_command",
    "features_of",
    "free_memory",
    "has_changed",
    "is_known",
    "join_layers",
    "load_features",
    "matching_layers",
    "no_images",
    "seen_by_network",
    "select_features",
    "select_layers",
    "vectors",
]
