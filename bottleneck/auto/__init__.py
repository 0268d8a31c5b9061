"""From images to an evaluated head in one command: which bases, and how the time is divided."""

from bottleneck.auto.bases import MOST, bases_here, choose_bases, forecast_bases
from bottleneck.auto.checks import check_images, classifiers_for
from bottleneck.auto.clock import Clock

__all__ = [
    "MOST",
    "Clock",
    "bases_here",
    "check_images",
    "choose_bases",
    "classifiers_for",
    "forecast_bases",
]
