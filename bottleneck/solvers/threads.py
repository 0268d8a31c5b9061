"""As many threads as a problem is worth."""

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

__all__ = ["threads_for"]

_SMALL = 2**20


@contextmanager
def threads_for(size: int) -> Iterator[None]:
    """Compute with one thread where matrices have no more than a million numbers.

    More would be no faster, and where the machine has other work they wait for each other: that
    made small fits several times slower.

    Parameters
    ----------
    size : int
        How many numbers a matrix has.
    """
    if size > _SMALL:
        yield
        return
    with threadpool_limits(1):
        yield
