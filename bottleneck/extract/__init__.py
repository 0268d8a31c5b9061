"""Extraction: compute what is missing and stream it into the cache.

The only joiner of images, bases and cache.
"""

from bottleneck.extract.batches import Batch, Progress, feature_batches
from bottleneck.extract.fill import check_arguments, fill_banks
from bottleneck.extract.forecast import Forecast, forecast_extraction
from bottleneck.extract.recheck import Recheck, recheck_bank
from bottleneck.extract.run import Extraction, extract_features
from bottleneck.extract.task import count_cached

__all__ = [
    "Batch",
    "Extraction",
    "Forecast",
    "Progress",
    "Recheck",
    "check_arguments",
    "count_cached",
    "extract_features",
    "feature_batches",
    "fill_banks",
    "forecast_extraction",
    "recheck_bank",
]
