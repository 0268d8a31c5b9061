"""The command line: parse, one library call, print. Nothing of the library imports it."""

import sys
from collections.abc import Sequence

from bottleneck.cli import demo, look, work  # noqa: F401 - their commands join the app
from bottleneck.cli.app import app
from bottleneck.errors import BottleneckError, UsageError

__all__ = ["app", "main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit with 2 for bad usage and 1 for failed work, without a traceback.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process by default.
    """
    try:
        app(None if arguments is None else list(arguments))
    except BottleneckError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except OSError as error:
        place = f"{error.filename!r} cannot be used" if error.filename else "the system refused"
        print(
            f"error: {place} ({error.strerror or error}); check the path and your rights there",
            file=sys.stderr,
        )
        sys.exit(1)
