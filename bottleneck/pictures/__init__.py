"""Draw results as pictures."""

from bottleneck.pictures.figures import check_picture
from bottleneck.pictures.pareto import draw_pareto
from bottleneck.pictures.results import (
    draw_advice,
    draw_confusion_matrix,
    draw_history,
    epoch_log,
)
from bottleneck.pictures.sheet import draw_sheet, thumbnail

__all__ = [
    "check_picture",
    "draw_advice",
    "draw_confusion_matrix",
    "draw_history",
    "draw_pareto",
    "draw_sheet",
    "epoch_log",
    "thumbnail",
]
