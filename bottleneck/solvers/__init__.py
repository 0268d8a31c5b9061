"""Linear algebra under the heads: exact reduction, and many classifiers at once. Arrays in and out.

`fit_path` is in `bottleneck.solvers.path`, and `stream_path` in `bottleneck.solvers.streamed`.
"""

from bottleneck.solvers.reduction import (
    Reduction,
    column_moments,
    in_parallel,
    reduce_rows,
    threads_for,
)

__all__ = ["Reduction", "column_moments", "in_parallel", "reduce_rows", "threads_for"]
