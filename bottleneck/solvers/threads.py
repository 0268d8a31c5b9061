"""How many threads and processes compute."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from threadpoolctl import ThreadpoolController, threadpool_limits

__all__ = ["SMALL", "in_parallel", "scipy_on_one_thread", "threads_for"]

SMALL = 2**20
"""Up to this size, matrices are kept in float64 and computed with in one thread, at no noticeable
cost."""


def threads_for(size: int) -> AbstractContextManager[object]:
    """Return a context with one thread if a matrix has at most a million elements.

    More threads would not be faster, and on a busy machine they wait for each other, which made
    small fits several times slower.

    Parameters
    ----------
    size : int
        Number of elements of a matrix.

    Returns
    -------
    context manager
    """
    return threadpool_limits(1) if size <= SMALL else nullcontext()


def in_parallel(
    tasks: Iterable[object], jobs: int | None, *, ordered: bool = True
) -> Iterator[Any]:
    """Run tasks made by `joblib.delayed`.

    Parameters
    ----------
    tasks : iterable
        The tasks.
    jobs : int or None
        Number of parallel tasks; None for joblib's default.
    ordered : bool
        Yield results in the order of the tasks, rather than as they finish.

    Yields
    ------
    object
        Result of a task; all come at the end if joblib's backend does not support generators.
    """
    import joblib

    order = "generator" if ordered else "generator_unordered"
    try:
        parallel = joblib.Parallel(jobs, return_as=order)
    except ValueError:
        parallel = joblib.Parallel(jobs)
    with warnings.catch_warnings():
        # A process that has loaded a large layer may be replaced, which is as it should be.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
        yield from parallel(tasks)


@contextmanager
def scipy_on_one_thread() -> Iterator[None]:
    """Let the BLAS that SciPy's wheels bring use one thread.

    Threads of a BLAS spin for a while after their work. Where NumPy and SciPy bring one each, and
    calls of both take turns, they keep the cores from each other: on two cores, L-BFGS-B took two
    to ten times as long.

    Yields
    ------
    None
    """
    with _scipys_libraries().limit(limits=1):
        yield


@cache
def _scipys_libraries() -> ThreadpoolController:
    """Return the controller of the libraries that were installed with SciPy, if any."""
    import scipy.linalg

    packages = Path(scipy.__file__).parents[1]
    controller = ThreadpoolController()
    own = [
        path
        for path in (library["filepath"] for library in controller.info())
        if any(Path(path).is_relative_to(packages / name) for name in ("scipy", "scipy.libs"))
    ]
    return controller.select(filepath=own)
