"""Export features from the cache to a plain file, and import them from one."""

from bottleneck.exchange.formats import Exchange, export_features
from bottleneck.exchange.imports import import_array, import_features

__all__ = ["Exchange", "export_features", "import_array", "import_features"]
