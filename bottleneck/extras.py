"""Optional packages, imported where they are needed."""

import re
from importlib import import_module
from importlib.metadata import version
from types import ModuleType

from bottleneck.errors import MissingExtraError

__all__ = ["import_extra"]


def import_extra(
    module: str, what: str, package: str, *, extra: str = "", least: tuple[int, int] = (0, 0)
) -> ModuleType:
    """Import a module of a package that only some functions need.

    Parameters
    ----------
    module : str
        Name of the module.
    what : str
        What needs it, such as ``drawing a picture``.
    package : str
        Name of the package to install.
    extra : str
        Our extra that installs it in a version that suits, if there is one.
    least : tuple of int
        The first two numbers of its earliest version that suits.

    Returns
    -------
    module

    Raises
    ------
    MissingExtraError
        The package is not installed, or its version is too early.
    """
    ours = f", or \"pip install -e '.[{extra}]'\"" if extra else ""
    try:
        found = import_module(module)
        release = version(package) if any(least) else "0.0"
    except ImportError:
        raise MissingExtraError(
            f"{what} needs {package}, which is not installed; run 'pip install {package}'{ours}"
        ) from None
    if tuple(map(int, re.findall(r"\d+", release)[:2])) < least:
        need = f"{package}>={'.'.join(map(str, least))}"
        raise MissingExtraError(
            f"{what} needs {need}, but {release} is installed; run 'pip install \"{need}\"'{ours}"
        )
    return found
