"""Features out of the cache into one plain file, and in from one."""

from bottleneck.exchange.formats import Exchange, export_features
from bottleneck.exchange.imports import import_array, import_features

__all__ = ["Exchange", "export_features", "import_array", "import_features"]
