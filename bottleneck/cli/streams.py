"""Standard output and error: closed, of another encoding, without a reader, or a terminal."""

import csv
import errno
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from bottleneck.errors import one_line
from bottleneck.files import output_file

__all__ = [
    "csv_printer",
    "escaped",
    "escaped_on_terminals",
    "harmless",
    "note",
    "note_list",
    "open_streams",
    "printed_to",
    "terminal_of",
    "terminal_width",
]

_NAMES = {1: "stdout", 2: "stderr"}
_COLUMNS = 80
_FORMULA = tuple("=+-@\t\r")
"""What a spreadsheet program takes for the beginning of a formula."""


class _Escaping:
    r"""A terminal that shows control characters as ``\x1b`` instead of obeying them."""

    def __init__(self, terminal: TextIO) -> None:
        self.terminal = terminal

    def write(self, text: str) -> int:
        return self.terminal.write(escaped(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.terminal, name)


def escaped(text: str) -> str:
    r"""Return a text whose control characters, except for line feeds, are written as ``\x1b``.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    str
    """
    return "\n".join(map(one_line, text.split("\n")))


def terminal_of(stream: Any) -> Any:
    """Return the terminal behind a stream of `escaped_on_terminals`, for colours and progress bars.

    Parameters
    ----------
    stream : file
        ``sys.stdout`` or ``sys.stderr``.

    Returns
    -------
    file
        `stream` itself if it is not one of these.
    """
    return getattr(stream, "terminal", stream)


def terminal_width() -> int:
    """Return the number of columns of the terminal; 80 where there is none.

    Returns
    -------
    int
    """
    return shutil.get_terminal_size((_COLUMNS, 24)).columns


def note(text: str) -> None:
    """Print a line that is not a result on standard error; a terminal breaks it between words.

    Parameters
    ----------
    text : str
        Text of the line.
    """
    if sys.stderr.isatty():
        inside = " " * (len(text) - len(text.lstrip()) + 2)
        text = textwrap.fill(
            one_line(text),
            terminal_width(),
            subsequent_indent=inside,
            break_long_words=False,
            break_on_hyphens=False,
        )
    print(text, file=sys.stderr, flush=True)


def note_list(text: str, found: Sequence[str], count: int = 0, *, most: int = 5) -> None:
    """Print a note, then the first of what it is about on a line each.

    Parameters
    ----------
    text : str
        The note.
    found : sequence of str
        What it is about.
    count : int
        Number of all, if `found` has only the first.
    most : int
        Number of lines; one more tells the number of the others.
    """
    for each in (text, *(f"  {each}" for each in found[:most])):
        note(each)
    if (others := max(count, len(found)) - most) > 0:
        note(f"  and {others} more")


@contextmanager
def escaped_on_terminals() -> Iterator[None]:
    """Escape control characters, as names of files may have them, in what terminals are sent.

    Yields
    ------
    None
    """
    before = {name: getattr(sys, name) for name in _NAMES.values()}
    for name, stream in before.items():
        if stream.isatty() and not isinstance(stream, _Escaping):
            setattr(sys, name, _Escaping(stream))
    try:
        yield
    finally:
        for name, stream in before.items():
            setattr(sys, name, stream)


@contextmanager
def open_streams() -> Iterator[None]:
    r"""Have both streams accept any text, and write all of it at the end.

    A closed stream discards what it is sent. Characters that a stream's encoding lacks are written
    as ``\xe9``.

    Yields
    ------
    None

    Raises
    ------
    SystemExit
        A reader has stopped: with 141, as if SIGPIPE had ended the process. Or a stream cannot be
        written, such as on a full disk: with 1.
    """
    closed = {name: number for number, name in _NAMES.items() if getattr(sys, name) is None}
    with ExitStack() as opened:
        for name, number in closed.items():
            setattr(sys, name, opened.enter_context(_discarding(number)))
            opened.callback(setattr, sys, name, None)
        streams = [getattr(sys, name) for name in _NAMES.values()]
        for stream in streams:
            if hasattr(
                stream, "reconfigure"
            ):  # not that of a program that runs a command in itself
                stream.reconfigure(errors="backslashreplace")
        try:
            yield
        except BaseException:
            stopped = sys.stdout is not streams[0]  # Typer has replaced it, as nobody reads it
            sys.stdout, sys.stderr = streams
            for stream in streams:
                _finish(stream, told=True)
            if stopped:
                sys.exit(128 + signal.SIGPIPE)
            raise
        for stream in streams:
            _finish(stream)


def _discarding(number: int) -> TextIO:
    """Open the null device in place of a closed stream, so that no file gets the stream's number.

    Libraries may write to that number.
    """
    with suppress(OSError):
        os.fstat(number)
        return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)
    return open(number, "w", encoding="utf-8", closefd=False)


def _finish(stream: TextIO, *, told: bool = False) -> None:
    """Write what is left, now rather than when the interpreter ends, which would print an error."""
    try:
        stream.flush()
    except OSError as error:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if error.errno == errno.EPIPE:
            sys.exit(128 + signal.SIGPIPE)
        if not told:
            sentence = (
                f"standard output cannot be written ({error.strerror}); check free disk space"
            )
            print(f"error: {sentence}", file=sys.stderr)
        sys.exit(1)


def harmless(cell: Any) -> Any:
    """Return a cell that no spreadsheet program takes for a formula.

    Parameters
    ----------
    cell : Any
        A text; numbers are returned unchanged.

    Returns
    -------
    Any
        The text, with an apostrophe before it if it begins with ``=``, ``+``, ``-``, ``@``, a tab
        or a carriage return.
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


@contextmanager
def printed_to(file: Path | None) -> Iterator[None]:
    """Let what is printed go to a file, which is written completely or not at all.

    Parameters
    ----------
    file : Path or None
        None for standard output.

    Yields
    ------
    None
    """
    if file is None:
        yield
        return
    with output_file(file) as content:
        text = TextIOWrapper(content, encoding="utf-8", newline="")
        try:
            with redirect_stdout(text):
                yield
        finally:
            text.detach()  # flushes, and leaves the file open


def csv_printer(
    *, safe: bool = False, quoting: Any = csv.QUOTE_MINIMAL
) -> Callable[[Iterable[Any]], object]:
    """Return a function that prints the cells of a row as CSV.

    Parameters
    ----------
    safe : bool
        Make cells `harmless`.
    quoting : int
        As for `csv.writer`.

    Returns
    -------
    callable
    """
    table = csv.writer(sys.stdout, lineterminator="\n", quoting=quoting)
    return lambda cells: table.writerow(map(harmless, cells) if safe else cells)
