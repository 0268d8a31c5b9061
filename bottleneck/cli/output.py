"""Output: results on standard output, notes and progress on standard error."""

import csv
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from typing import Any

__all__ = [
    "loading",
    "note",
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
_UNLIMITED = 100_000
_GAP = 2
"""Spaces between the columns of a table."""
_FEW_CELLS = 240
_PAIR = 2


class _Stop:
    """The signal that ends the command, if any."""

    number: int | None = None

    def check(self) -> None:
        """Exit if a signal has arrived."""
        if self.number is not None:
            sys.exit(128 + self.number)


stop = _Stop()


def note(text: str) -> None:
    """Print a line that is not a result.

    Parameters
    ----------
    text : str
        Text of the line, for standard error.
    """
    print(text, file=sys.stderr, flush=True)


@contextmanager
def printed_as(form: str = "text") -> Iterator[None]:
    """Print results in another form.

    Parameters
    ----------
    form : str
        ``text``, ``json``, ``csv`` or ``markdown``.

    Yields
    ------
    None
    """
    before = _form.set(form)
    try:
        yield
    finally:
        _form.reset(before)


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


def print_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Print rows as a table, as Markdown, as CSV or as JSON.

    Parameters
    ----------
    rows : sequence of mapping
        The first has all columns; a missing value is shown as "-".
    title : str
        Title above a text table.
    """
    columns = list(rows[0]) if rows else []
    cells = [[_text(row.get(column)) for column in columns] for row in rows]
    right = [
        all(isinstance(row.get(column), int | float | None) for row in rows) for column in columns
    ]
    if wanted("json"):
        print(json.dumps(rows, indent=2))
    elif wanted("csv"):
        table = csv.writer(sys.stdout, lineterminator="\n")
        table.writerows([*(row.keys() for row in rows[:1]), *(row.values() for row in rows)])
    elif wanted("markdown"):
        for line in (columns, ["---:" if number else "---" for number in right], *cells):
            print(f"| {' | '.join(line)} |")
    elif rows:
        _draw(title, columns, cells, right)


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

    return Console(stderr=True).status("loading PyTorch")


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


def _draw(title: str, columns: list[str], cells: list[list[str]], right: list[bool]) -> None:
    """Print a table; on a narrow terminal, print the cells of a row below each other.

    Tables of many cells, or of pairs of a name and a value, stay tables.
    """
    from rich.console import Console
    from rich.table import Table

    terminal = sys.stdout.isatty()
    plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
    console = Console(force_terminal=terminal, **plain)
    room = console.width - _GAP * (len(columns) - 1) if terminal else _UNLIMITED
    widths = _fitting([columns, *cells], room)
    if sum(widths) > room:
        if len(columns) > _PAIR and len(cells) * len(columns) <= _FEW_CELLS:
            _print_below_each_other(title, columns, cells)
            return
        widths = _fitting([columns, *cells], _UNLIMITED)
    console.width = _UNLIMITED
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for column, number, size in zip(columns, right, widths, strict=True):
        table.add_column(column, justify="right" if number else "left", width=size)
    for row in cells:
        table.add_row(*row)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().split("\n")[:-1]:
        print(line.rstrip())


def _fitting(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Return widths of columns: if whole cells are too wide, headings wrap, then all cells.

    They wrap only between words, so the total may exceed the available width.
    """
    from rich.cells import cell_len

    columns = list(zip(*rows, strict=True))
    widths = [max(map(cell_len, column)) for column in columns]
    wrapped = [[head.split(), cells] for head, *cells in columns]
    words = [[" ".join(column).split()] for column in columns]
    for parts in (wrapped, words):
        least = [max(cell_len(text) for texts in each for text in texts) for each in parts]
        while sum(widths) > width and widths != least:
            room = [size if size > low else 0 for size, low in zip(widths, least, strict=True)]
            widths[room.index(max(room))] -= 1
    return widths


def _print_below_each_other(title: str, columns: list[str], cells: list[list[str]]) -> None:
    if title:
        print(title)
    for place, row in enumerate(cells):
        print(end="\n" if place else "")
        print_list(dict(zip(columns, row, strict=True)))


@contextmanager
def _bar(unit: str) -> Iterator[_Show]:
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn(f"{{task.fields[rate]:.1f}} {unit}/s"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[counts]}"),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, progress.TaskID] = {}

        def show(stage: str, done: int, total: int, rate: float, **counts: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total, rate=0.0, counts="")
            text = _counted(counts)
            bar.update(tasks[stage], completed=done, total=total, rate=rate, counts=text)

        yield show


def _line(unit: str, stage: str, done: int, total: int, rate: float, **counts: int) -> None:
    if not done:
        return  # a line for the eye can wait until there is something to tell
    facts = [f"{done} of {total} {unit}"]
    if rate:  # else nothing is known but the number
        facts.append(f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each")
    if rate and done < total:
        facts.append(f"{timedelta(seconds=round((total - done) / rate))} left")
    note(f"{stage}: {', '.join(filter(None, [*facts, _counted(counts)]))}")


def _json_line(unit: str, stage: str, done: int, total: int, rate: float, **counts: int) -> None:
    speed = {f"{unit}_per_second": round(rate, 3)}
    left = {"seconds_left": round((total - done) / rate, 1) if rate else None}
    note(json.dumps({"stage": stage, "done": done, "total": total, **speed, **left, **counts}))


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
