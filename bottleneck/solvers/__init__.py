"""Solvers of linear classifiers on arrays: exact reduction, and many fits at once.

`fit_path` is in `bottleneck.solvers.path`, and `stream_path` in `bottleneck.solvers.streamed`.
"""

from bottleneck.solvers.reduction import Reduction, column_moments, is_reducible, reduce_rows
from bottleneck.solvers.threads import in_parallel, threads_for

__all__ = [
    "Reduction",
    "column_moments",
    "in_parallel",
    "is_reducible",
    "reduce_rows",
    "threads_for",
]
