"""Output: results on standard output, notes and progress on standard error."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from math import inf
from typing import Any, NoReturn

from bottleneck.cli import tables
from bottleneck.cli.streams import csv_printer, note, terminal_of
from bottleneck.errors import counted

__all__ = [
    "TimeUp",
    "end_with",
    "loading",
    "print_list",
    "print_table",
    "printed_as",
    "progress_shown",
    "show",
    "stop",
    "wanted",
]

_form = ContextVar("form", default="text")

_Show = Callable[..., None]
"""Takes a stage, the number done, the total, the rate since its beginning, and other counts."""
_SECONDS_BETWEEN_LINES = 10.0
_UNITS = {"heads": "heads", "mlp": "epochs"}
"""Of stages that count something else than their command."""


class TimeUp(SystemExit):
    """The time of a command that another one runs is over."""


class _Stop:
    """What ends the command: a signal, or the time that it may take."""

    number: int | None = None
    moment: float = inf

    def check(self, seconds: float = 0.0) -> None:
        """Exit if a signal has arrived, or what takes so many seconds would not end in time."""
        if self.number is not None:
            sys.exit(128 + self.number)
        if self.moment < inf and time.monotonic() + seconds > self.moment:
            raise TimeUp(1)

    @contextmanager
    def at(self, moment: float) -> Iterator[None]:
        """Let what runs here end at a moment on the clock of `time.monotonic`, with `TimeUp`."""
        before, self.moment = self.moment, moment
        try:
            yield
        finally:
            self.moment = before


stop = _Stop()


def end_with(sentence: str, code: int, *, as_json: bool) -> NoReturn:
    """Print an error on standard error, as a line of JSON if results are, and exit.

    Parameters
    ----------
    sentence : str
        What was given, what was expected and what to do.
    code : int
        The exit status.
    as_json : bool
        Print ``{"error": ..., "exit_code": ...}``.

    Returns
    -------
    NoReturn

    Raises
    ------
    SystemExit
        Always.
    """
    if as_json:
        print(json.dumps({"error": sentence, "exit_code": code}), file=sys.stderr)
    else:
        note(f"error: {sentence}")
    sys.exit(code)


@contextmanager
def printed_as(form: str = "text", *, wide: bool = False) -> Iterator[None]:
    """Print results in another form.

    Parameters
    ----------
    form : str
        ``text``, ``json``, ``csv`` or ``markdown``.
    wide : bool
        Print tables of text as wide as they are; also where a command runs another one.

    Yields
    ------
    None
    """
    before, narrow = _form.set(form), tables.shown_whole.set(wide or tables.shown_whole.get())
    try:
        yield
    finally:
        _form.reset(before)
        tables.shown_whole.reset(narrow)


def wanted(*forms: str) -> bool:
    """Return whether results are printed in one of these forms.

    Parameters
    ----------
    *forms : str
        As for `printed_as`.

    Returns
    -------
    bool
    """
    return _form.get() in forms


def show(content: Any, text: Callable[[], object]) -> None:
    """Print a result as JSON or as text.

    Parameters
    ----------
    content : Any
        The result as a JSON value.
    text : callable
        Prints the result as text.
    """
    if wanted("json"):
        print(json.dumps(content, indent=2))
    else:
        text()


def print_list(facts: Mapping[str, str]) -> None:
    """Print a line for each fact: its name and its value.

    Parameters
    ----------
    facts : mapping of str to str
        Name to value; at least one.
    """
    width = max(map(len, facts))
    for name, fact in facts.items():
        print(f"{name.ljust(width)}  {fact}")


def print_table(
    rows: Sequence[Mapping[str, Any]],
    title: str = "",
    *,
    spare: Sequence[str] = (),
    spreadsheet_safe: bool = False,
) -> None:
    """Print rows as a table, as Markdown, as CSV or as JSON.

    Parameters
    ----------
    rows : sequence of mapping
        The first has all columns; a missing value is shown as "-".
    title : str
        Title above a text table.
    spare : sequence of str
        Columns that a text table leaves out until it fits: empty ones, then the first first.
    spreadsheet_safe : bool
        Whether cells of CSV that look like formulas are made harmless.
    """
    if wanted("json"):
        print(json.dumps(rows, indent=2))
    elif wanted("csv"):
        write = csv_printer(safe=spreadsheet_safe)
        for each in [*(list(row) for row in rows[:1]), *(list(row.values()) for row in rows)]:
            write(each)
    elif wanted("markdown"):
        columns, cells, right = _cells(rows, list(rows[0]) if rows else [])
        for line in (columns, ["---:" if number else "---" for number in right], *cells):
            print(f"| {' | '.join(line)} |")
    elif rows:
        columns = list(rows[0])
        left_out = [name for name in spare if name in columns]
        left_out.sort(key=lambda name: any(row.get(name) is not None for row in rows))
        while not tables.table_fits(*_cells(rows, columns)) and left_out:
            columns.remove(left_out.pop(0))
        tables.draw_table(title, *_cells(rows, columns))
        if hidden := [name for name in rows[0] if name not in columns]:
            note(f"note: --wide also shows {', '.join(hidden)}")


def _cells(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> tuple[list[str], list[list[str]], list[bool]]:
    """Return headings, texts of cells, and which columns have only numbers."""
    cells = [[_text(row.get(column)) for column in columns] for row in rows]
    right = [
        all(isinstance(row.get(column), int | float | None) for row in rows) for column in columns
    ]
    return list(columns), cells, right


def loading() -> Any:
    """Show on a terminal that libraries are being imported.

    Returns
    -------
    context manager
        rich's status; one that shows nothing if PyTorch is loaded, or without a terminal.
    """
    if "torch" in sys.modules or not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(file=terminal_of(sys.stderr)).status("loading PyTorch")


@contextmanager
def progress_shown(
    *, quiet: bool = False, unit: str = "images", as_json: bool = False
) -> Iterator[Callable[..., None]]:
    """Yield a callable that reports progress, with a bar or with lines at intervals.

    It takes the stage, the number done and the total, and may take other counts by name.

    Parameters
    ----------
    quiet : bool
        Show nothing.
    unit : str
        Name of the counted units.
    as_json : bool
        Write JSON lines where results are printed as JSON.

    Yields
    ------
    callable
        Takes the stage, the number done, the total, and other counts by name.
    """
    if quiet:
        yield _report(lambda *_, **__: None)
    elif as_json and wanted("json"):
        yield _report(partial(_json_line, unit))
    elif sys.stderr.isatty():
        with _bar(unit) as show:
            yield _report(show, seconds=0)
    else:
        yield _report(partial(_line, unit))


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        separator = " x " if all(isinstance(each, int) for each in value) else ", "
        return separator.join(map(_text, value))
    return str(value)


@contextmanager
def _bar(unit: str) -> Iterator[_Show]:
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]:.1f} {task.fields[unit]}/s"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[counts]}"),
    )
    console = Console(file=terminal_of(sys.stderr))
    # Rich would print results on standard error, too, which is the only terminal in `> FILE`.
    with progress.Progress(*columns, console=console, redirect_stdout=False) as bar:
        tasks: dict[str, progress.TaskID] = {}

        def show(stage: str, done: int, total: int, rate: float, **counts: int) -> None:
            if stage not in tasks:
                own = _UNITS.get(stage, unit)
                tasks[stage] = bar.add_task(stage, total=total, rate=0.0, counts="", unit=own)
            text = _counted(counts)
            bar.update(tasks[stage], completed=done, total=total, rate=rate, counts=text)

        yield show


def _line(unit: str, stage: str, done: int, total: int, rate: float, **counts: int) -> None:
    if not done:
        return  # a line for the eye can wait until there is something to tell
    facts = [f"{done} of {counted(total, _UNITS.get(stage, unit).removesuffix('s'))}"]
    if rate:  # else nothing is known but the number
        facts.append(f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each")
    if rate and done < total:
        facts.append(f"{timedelta(seconds=round((total - done) / rate))} left")
    note(f"{stage}: {', '.join(filter(None, [*facts, _counted(counts)]))}")


def _json_line(unit: str, stage: str, done: int, total: int, rate: float, **counts: int) -> None:
    speed = {f"{unit}_per_second": round(rate, 3)}
    left = {"seconds_left": round((total - done) / rate, 1) if rate else None}
    facts = {"stage": stage, "done": done, "total": total, **speed, **left, **counts}
    print(json.dumps(facts), file=sys.stderr, flush=True)


def _report(show: _Show, seconds: float = _SECONDS_BETWEEN_LINES) -> Callable[..., None]:
    """Return a report that is shown at the start and end of a stage, and every few seconds."""
    started: dict[str, tuple[float, int]] = {}
    last = time.monotonic()

    def report(stage: str, done: int, total: int, **counts: int) -> None:
        nonlocal last
        stop.check()
        now = time.monotonic()
        began, before = started.setdefault(stage, (now, done))
        if done in {0, total} or now - last >= seconds:
            last = now
            show(stage, done, total, (done - before) / max(1e-9, now - began), **counts)

    return report


def _counted(counts: Mapping[str, int]) -> str:
    """Return counts above zero as text, with bytes in megabytes."""
    return ", ".join(
        f"{count / 1e6:.1f} MB {name.removeprefix('bytes_')}"
        if name.startswith("bytes_")
        else f"{count} {name}"
        for name, count in counts.items()
        if count
    )
