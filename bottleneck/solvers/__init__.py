"""Linear algebra under the heads: exact reduction, and many classifiers at once. Arrays in and out.

`fit_path` is to be imported from `bottleneck.solvers.path`, and `stream_path` from
`bottleneck.solvers.streamed`, as they load torch.
"""

from bottleneck.solvers.kept import KeptReductions
from bottleneck.solvers.reduction import Reduction, column_moments, reduce_rows, threads_for

__all__ = ["KeptReductions", "Reduction", "column_moments", "reduce_rows", "threads_for"]
