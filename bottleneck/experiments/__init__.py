"""The experiment log, and the comparison of experiments."""

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

__all__ = [
    "INNER",
    "LOWER_IS_BETTER",
    "Comparison",
    "Experiment",
    "ExperimentLog",
    "Ranked",
    "Score",
    "compare",
    "default_metric",
    "environment",
    "half_width",
    "log_to_mlflow",
    "rank",
    "scores",
    "unselected",
]
