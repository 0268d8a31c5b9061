"""The experiment log, the comparison of experiments, and the results of fine-tuning."""

from bottleneck.experiments.compare import (
    INNER,
    LOWER_IS_BETTER,
    Comparison,
    Ranked,
    Score,
    compare,
    default_metric,
    half_width,
    rank,
    scores,
    unselected,
)
from bottleneck.experiments.log import Experiment, ExperimentLog, environment
from bottleneck.experiments.tracking import log_to_mlflow
from bottleneck.experiments.tuned import FineTuned, fine_tuned, same_rows

__all__ = [
    "INNER",
    "LOWER_IS_BETTER",
    "Comparison",
    "Experiment",
    "ExperimentLog",
    "FineTuned",
    "Ranked",
    "Score",
    "compare",
    "default_metric",
    "environment",
    "fine_tuned",
    "half_width",
    "log_to_mlflow",
    "rank",
    "same_rows",
    "scores",
    "unselected",
]
