"""Extraction: plan the missing features, compute them, and store them as parts.

Only this package joins images, bases and the cache.
"""

from bottleneck.extract.compute import Progress, ahead, feature_batches
from bottleneck.extract.decoding import preprocess
from bottleneck.extract.filling import fill_banks
from bottleneck.extract.forecast import Forecast, forecast_extraction
from bottleneck.extract.plan import Plan, count_cached, plan_extraction
from bottleneck.extract.preview import draw_views
from bottleneck.extract.recheck import Recheck, recheck_banks
from bottleneck.extract.run import extract_features, usable_images
from bottleneck.records import Extraction

__all__ = [
    "Extraction",
    "Forecast",
    "Plan",
    "Progress",
    "Recheck",
    "ahead",
    "count_cached",
    "draw_views",
    "extract_features",
    "feature_batches",
    "fill_banks",
    "forecast_extraction",
    "plan_extraction",
    "preprocess",
    "recheck_banks",
    "usable_images",
]
