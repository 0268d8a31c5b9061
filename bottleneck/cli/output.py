"""What is printed: results on standard output, notes and progress on standard error."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["note", "print_json", "print_table", "progress_shown", "stop"]

_SECONDS_BETWEEN_LINES = 10.0


class _Stop:
    """Which signal has come to end the command."""

    number: int | None = None

    def check(self) -> None:
        """Exit if one has."""
        if self.number is not None:
            sys.exit(128 + self.number)


stop = _Stop()


def note(text: str) -> None:
    """Print a line that is not a result."""
    print(text, file=sys.stderr, flush=True)


def print_json(content: Any) -> None:
    """Print a result as JSON."""
    print(json.dumps(content, indent=2))


def print_table(
    rows: Sequence[Mapping[str, Any]],
    *,
    title: str = "",
    as_json: bool = False,
    markdown: bool = False,
) -> None:
    """Print rows of the same columns: drawn on a terminal, aligned elsewhere, or as asked for."""
    if as_json:
        print_json(rows)
        return
    if not rows:
        return
    columns = list(rows[0])
    cells = [[_text(row[column]) for column in columns] for row in rows]
    right = [all(isinstance(row[column], int | float | None) for row in rows) for column in columns]
    if markdown:
        _mark_down(columns, cells, right)
    elif sys.stdout.isatty():
        _draw(title, columns, cells, right)
    else:
        _align(title, columns, cells, right)


@contextmanager
def progress_shown(
    *, quiet: bool = False, unit: str = "images"
) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a callable for the library to report what is done: a bar, or a line now and then."""
    if quiet:
        yield lambda _stage, _done, _total: stop.check()
    elif sys.stderr.isatty():
        with _bar(unit) as report:
            yield report
    else:
        yield _lines(unit)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return (", " if isinstance(next(iter(value), ""), str) else " x ").join(map(str, value))
    return str(value)


def _draw(
    title: str, columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]
) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title) or None, title_justify="left", box=SIMPLE)
    for column, number in zip(columns, right, strict=True):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(escape, row))
    Console().print(table)


def _mark_down(
    columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]
) -> None:
    for row in (columns, ["---:" if number else "---" for number in right], *cells):
        print(f"| {' | '.join(row)} |")


def _align(
    title: str, columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]
) -> None:
    if title:
        print(title)
    lines = [list(columns), *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, right, strict=True)
        ]
        print("  ".join(padded).rstrip())


@contextmanager
def _bar(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{{task.fields[rate]:.1f}} {unit}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}
        started = time.monotonic()

        def report(stage: str, done: int, total: int) -> None:
            stop.check()
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total, rate=0.0)
            rate = done / max(1e-9, time.monotonic() - started)
            bar.update(tasks[stage], completed=done, total=total, rate=rate)

        yield report


def _lines(unit: str) -> Callable[[str, int, int], None]:
    started = last = time.monotonic()

    def report(stage: str, done: int, total: int) -> None:
        nonlocal last
        stop.check()
        now = time.monotonic()
        if done == total or now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            note(f"{stage}: {done} of {total} {unit}, {done / max(1e-9, now - started):.1f}/s")

    return report
