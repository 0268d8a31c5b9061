"""The experiment log, the comparison of experiments, and the results of fine-tuning."""

from bottleneck.experiments.compare import (
    LOWER_IS_BETTER,
    Comparison,
    Ranked,
    Score,
    compare,
    default_metric,
    folds_of_choice,
    rank,
    scores,
    share_folds,
    unselected,
)
from bottleneck.experiments.intervals import (
    RULE_OF_THREE,
    half_of,
    half_width,
    held_out_ratio,
    interval_of,
    paired_gain,
    share_interval,
    standard_error,
    within_range,
)
from bottleneck.experiments.log import INNER, SINCE, SKIPPED, Experiment, ExperimentLog
from bottleneck.experiments.sources import source_of
from bottleneck.experiments.tracking import environment, log_to_mlflow
from bottleneck.experiments.tuned import FineTuned, fine_tuned, same_rows

__all__ = [
    "INNER",
    "LOWER_IS_BETTER",
    "RULE_OF_THREE",
    "SINCE",
    "SKIPPED",
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
    "folds_of_choice",
    "half_of",
    "half_width",
    "held_out_ratio",
    "interval_of",
    "log_to_mlflow",
    "paired_gain",
    "rank",
    "same_rows",
    "scores",
    "share_folds",
    "share_interval",
    "source_of",
    "standard_error",
    "unselected",
    "within_range",
]
