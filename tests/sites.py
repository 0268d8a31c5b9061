"""Folders in which packages are installed, for tests of bases of other packages."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def installed(site: Path) -> Iterator[None]:
    """Have the packages of a folder on the path; what libraries add to the path meanwhile stays."""
    sys.path.insert(0, str(site))
    try:
        yield
    finally:
        sys.path.remove(str(site))
