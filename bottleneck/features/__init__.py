"""An image set's labels joined to a bank's rows by digest: X, y, groups and splits."""

from bottleneck.features.rows import Features, features_of, load_features
from bottleneck.features.selection import select_features, select_layers, vectors
from bottleneck.features.streaming import StreamedRows, free_memory
from bottleneck.images import SPLITS

__all__ = [
    "SPLITS",
    "Features",
    "StreamedRows",
    "features_of",
    "free_memory",
    "load_features",
    "select_features",
    "select_layers",
    "vectors",
]
