"""The versions and the machine that experiments are run with."""

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

__all__ = ["environment"]

_PACKAGES = ("bottleneck-features", "torch", "scikit-learn", "numpy", "scipy", "h5py")


def environment() -> dict[str, Any]:
    """Return the versions, platform and number of processors that experiments are run with.

    Returns
    -------
    dict of str to Any
        Package to version, and ``python``, ``platform``, ``machine`` and ``processors``.
    """
    found = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return {
        **found,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
    }
