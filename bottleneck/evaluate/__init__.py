"""Metrics of a head on held-out features, with confidence intervals."""

from bottleneck.evaluate.measure import evaluate_head, misclassified
from bottleneck.evaluate.results import ClassMetrics, Evaluation, Misclassified, UnknownClass

__all__ = [
    "ClassMetrics",
    "Evaluation",
    "Misclassified",
    "UnknownClass",
    "evaluate_head",
    "misclassified",
]
