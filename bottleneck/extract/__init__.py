"""Extraction: compute what is missing and stream it into the cache.

The only joiner of images, bases and cache.
"""

from bottleneck.extract.batches import Batch, Progress, feature_batches
from bottleneck.extract.fill import (
    Filling,
    check_arguments,
    check_policy,
    check_views,
    fill_banks,
)
from bottleneck.extract.forecast import Forecast, forecast_extraction
from bottleneck.extract.pixels import preprocess
from bottleneck.extract.preview import draw_views
from bottleneck.extract.recheck import Recheck, recheck_bank
from bottleneck.extract.run import extract_features, usable_images
from bottleneck.extract.task import count_cached
from bottleneck.records import Extraction

__all__ = [
    "Batch",
    "Extraction",
    "Filling",
    "Forecast",
    "Progress",
    "Recheck",
    "check_arguments",
    "check_policy",
    "check_views",
    "count_cached",
    "draw_views",
    "extract_features",
    "feature_batches",
    "fill_banks",
    "forecast_extraction",
    "preprocess",
    "recheck_bank",
    "usable_images",
]
