"""Draw results as pictures."""

from bottleneck.pictures.figures import check_picture
from bottleneck.pictures.pareto import draw_pareto
from bottleneck.pictures.results import (
    best_epoch,
    draw_advice,
    draw_confusion_matrix,
    draw_history,
    draw_training,
    epoch_log,
)
from bottleneck.pictures.sheet import COLUMNS, draw_sheet, thumbnail

__all__ = [
    "COLUMNS",
    "best_epoch",
    "check_picture",
    "draw_advice",
    "draw_confusion_matrix",
    "draw_history",
    "draw_pareto",
    "draw_sheet",
    "draw_training",
    "epoch_log",
    "thumbnail",
]
