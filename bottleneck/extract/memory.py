"""Memory that batches of one size use again and again."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["freed_memory_kept"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""What malloc.h of the GNU C library calls M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX."""
_KEPT = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_THRESHOLD: 2**30, _ARENA_MAX: 1}
_USUAL = {_TRIM_THRESHOLD: 2**26, _MMAP_THRESHOLD: 2**25, _ARENA_MAX: 0}
"""What the library would have come to by itself after a few large arrays."""


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Have freed memory kept for the next batch, and given back to the system at the end.

    Otherwise the GNU C library gives each large activation back at once, and the system clears all
    its pages anew for the next. Other C libraries are left as they are.
    """
    if sys.platform != "linux" or not hasattr(library := ctypes.CDLL(None), "mallopt"):
        yield
        return
    try:
        for parameter, value in _KEPT.items():
            library.mallopt(parameter, value)
        yield
    finally:
        for parameter, value in _USUAL.items():
            library.mallopt(parameter, value)
        library.malloc_trim(0)
