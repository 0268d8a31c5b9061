"""The command line: parse, call the library, print. No other module imports it."""

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

# These modules add their commands.
from bottleneck.cli import features, fitted, heads, other, store  # noqa: F401
from bottleneck.cli.command import application
from bottleneck.cli.output import stop
from bottleneck.errors import first_line, is_out_of_memory

__all__ = ["app", "main"]

app = application()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit with 2 for invalid usage and 1 for failed work, without a traceback.

    SIGINT and SIGTERM end it with 130 and 143, after pending writes are done.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Raises
    ------
    SystemExit
        The command has failed, or was stopped by a signal; its code is the exit status.
    """
    try:
        with _signals_end_it():
            app(None if arguments is None else list(arguments))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        sentence = (
            f"not enough memory ({first_line(error)}); free some, or give a smaller --memory or "
            f"--image-size, fewer --jobs, or a --pool that makes fewer features"
        )
    except OSError as error:
        place = f"{error.filename!r} cannot be used" if error.filename else "the system refused"
        sentence = f"{place} ({error.strerror or error}); check the path and its permissions"
    else:
        return
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(1)


@contextmanager
def _signals_end_it() -> Iterator[None]:
    """Turn the first signal into an orderly exit, and ignore later ones.

    Python discards an exception that a handler raises while an object is being removed; then the
    next report of progress ends the command, or the command ends by itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    taken = {number: each for number, each in handlers.items() if each is not signal.SIG_IGN}

    def end(number: int, _frame: FrameType | None) -> None:
        for each in taken:
            signal.signal(each, signal.SIG_IGN)
        stop.number = number
        stop.check()

    stop.number = None
    for number in taken:
        signal.signal(number, end)
    try:
        yield
        stop.check()
    finally:
        if stop.number is None:
            for number, handler in taken.items():
                signal.signal(number, handler)
