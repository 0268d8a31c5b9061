"""What is printed: results on standard output, notes and progress on standard error."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

__all__ = ["loading", "note", "print_json", "print_table", "progress_shown", "stop"]

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
def loading() -> Iterator[None]:
    """Show on a terminal that libraries are being imported, which takes seconds."""
    if "torch" in sys.modules or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status("loading PyTorch"):
        yield


@contextmanager
def progress_shown(
    *, quiet: bool = False, unit: str = "images", as_json: bool = False
) -> Iterator[Callable[..., None]]:
    """Yield a callable for the library to report what is done: a bar, or a line now and then.

    It takes what is being done, how much is done and how much there is in all, and may take other
    counts by name.
    """
    if quiet:
        yield lambda *_numbers, **_counts: stop.check()
    elif as_json:
        yield _json_lines(unit)
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
def _bar(unit: str) -> Iterator[Callable[..., None]]:
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
        TextColumn("{task.fields[counts]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}
        rate_of = _rates()

        def report(stage: str, done: int, total: int, **counts: int) -> None:
            stop.check()
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total, rate=0.0, counts="")
            rate, text = rate_of(stage, done), _counted(counts)
            bar.update(tasks[stage], completed=done, total=total, rate=rate, counts=text)

        yield report


def _lines(unit: str) -> Callable[..., None]:
    def show(stage: str, done: int, total: int, rate: float, counts: Mapping[str, int]) -> None:
        left = timedelta(seconds=round((total - done) / rate)) if rate else None
        facts = [f"{rate:.1f}/s", f"{left} left" if done < total else "", _counted(counts)]
        if not done:
            return  # a line for the eye can wait until there is something to tell
        note(f"{stage}: {done} of {total} {unit}, {', '.join(filter(None, facts))}")

    return _now_and_then(show)


def _json_lines(unit: str) -> Callable[..., None]:
    def show(stage: str, done: int, total: int, rate: float, counts: Mapping[str, int]) -> None:
        speed = {f"{unit}_per_second": round(rate, 3)}
        left = {"seconds_left": round((total - done) / rate, 1) if rate else None}
        print(
            json.dumps({"stage": stage, "done": done, "total": total, **speed, **left, **counts}),
            file=sys.stderr,
            flush=True,
        )

    return _now_and_then(show)


def _now_and_then(
    show: Callable[[str, int, int, float, Mapping[str, int]], None],
) -> Callable[..., None]:
    """Return a report that is shown at the beginning and end of a stage, and every ten seconds."""
    rate_of = _rates()
    last = time.monotonic()

    def report(stage: str, done: int, total: int, **counts: int) -> None:
        nonlocal last
        stop.check()
        now = time.monotonic()
        rate = rate_of(stage, done)
        if done in {0, total} or now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            show(stage, done, total, rate, counts)

    return report


def _rates() -> Callable[[str, int], float]:
    """Return what gives the rate of a stage since it was first asked for that."""
    started: dict[str, tuple[float, int]] = {}

    def rate_of(stage: str, done: int) -> float:
        now = time.monotonic()
        began, before = started.setdefault(stage, (now, done))
        return (done - before) / max(1e-9, now - began)

    return rate_of


def _counted(counts: Mapping[str, int]) -> str:
    """Return counts as text: bytes in megabytes, and those above zero only."""
    texts = {
        name: f"{count / 1e6:.1f} MB {name.removeprefix('bytes_')}"
        if name.startswith("bytes_")
        else f"{count} {name}"
        for name, count in counts.items()
        if count
    }
    return ", ".join(texts.values())
