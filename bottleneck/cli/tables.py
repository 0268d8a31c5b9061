"""Tables of text that fit the terminal, or 80 columns where there is none."""

import io
import re
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, TextIO

from bottleneck.cli.streams import escaped, terminal_of, terminal_width
from bottleneck.errors import one_line

__all__ = ["draw_matrix", "draw_table", "shortened", "shown_whole", "table_fits"]

shown_whole = ContextVar("shown_whole", default=False)
"""Whether tables are printed as wide as they are."""

_UNLIMITED = 100_000
_GAP = 2
"""Spaces between the columns of a table."""
_CUT = "..."
_LABEL_WIDTHS = (1000, 40, 24, 16, 12)
"""Widths to try for the names of the rows of a matrix."""
_LEAST_NAME, _LEAST_CELL, _LEAST_HEADING = 32, 12, 10
"""Fewest characters that are left of a name, which may be typed, a cell and a heading's word."""


def draw_table(
    title: str,
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    right: Sequence[bool],
    file: TextIO | None = None,
) -> None:
    """Print a table; what does not fit is cut in the middle.

    Headings wrap between words and after underscores before anything is cut. Numbers are not cut.

    Parameters
    ----------
    title : str
        Title above the table.
    columns : sequence of str
        Headings.
    cells : sequence of sequence of str
        Rows.
    right : sequence of bool
        Whether a column has numbers, which are aligned to the right.
    file : text file
        Standard output, by default, or standard error.
    """
    from rich.console import Console
    from rich.table import Table

    file = file or sys.stdout
    terminal = file.isatty()
    if terminal:  # its styles are sent as they are, so that names are escaped here
        title, columns = escaped(title), list(map(one_line, columns))
        cells = [list(map(one_line, row)) for row in cells]
    widths = _widths(columns, cells, right)
    table = Table(box=None, pad_edge=False)
    for column, number, width in zip(columns, right, widths, strict=True):
        heading = "\n".join(shortened(line, width) for line in _wrapped(column, width))
        table.add_column(heading, justify="right" if number else "left", width=width)
    for row in cells:
        table.add_row(*(shortened(cell, width) for cell, width in zip(row, widths, strict=True)))
    drawn = io.StringIO()  # Rich would end the process where nobody reads standard output
    plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
    Console(file=drawn, force_terminal=terminal, width=_UNLIMITED, **plain).print(table)
    for line in [*filter(None, [title]), *drawn.getvalue().split("\n")[:-1]]:
        print(line.rstrip(), file=terminal_of(file))


def draw_matrix(labels: Sequence[str], counts: Sequence[Sequence[int]], corner: str) -> bool:
    """Print a square matrix if it fits, at least with shortened names.

    Parameters
    ----------
    labels : sequence of str
        Names of the rows and columns.
    counts : sequence of sequence of int
        The rows.
    corner : str
        Heading of the names of the rows.

    Returns
    -------
    bool
        Whether it fits.
    """
    right = [False, *(True for _ in labels)]
    for width in _LABEL_WIDTHS:
        names = [shortened(label, width) for label in labels]
        cells = [[name, *map(str, row)] for name, row in zip(names, counts, strict=True)]
        heads = [corner, *(shortened(name, width // 2) for name in names)]
        if table_fits(heads, cells, right):
            draw_table("", heads, cells, right)
            return True
    return False


def table_fits(
    columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]
) -> bool:
    """Return whether a table fits without wrapping a heading or cutting anything.

    Parameters
    ----------
    columns, cells, right
        As for `draw_table`.

    Returns
    -------
    bool
    """
    return sum(_widths(columns, cells, right, whole=True)) <= _room(len(columns))


def _room(columns: int) -> int:
    """Return the number of characters that the columns of a table may have together."""
    return _UNLIMITED if shown_whole.get() else terminal_width() - _GAP * (columns - 1)


def _widths(
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    right: Sequence[bool],
    *,
    whole: bool = False,
) -> list[int]:
    """Return widths of columns: if whole cells are too wide, headings wrap, then cells are cut.

    The first column, which has the names of rows, is cut last.
    """
    from rich.cells import cell_len

    room = _room(len(columns))
    widths, wrapped, cut = [], [], []
    for place, (heading, number) in enumerate(zip(columns, right, strict=True)):
        longest = max((cell_len(row[place]) for row in cells), default=1)
        word = max(map(cell_len, _wrapped(heading, 0)))
        widths.append(max(longest, cell_len(heading)))
        wrapped.append(max(longest, word))
        kept = longest if number else min(longest, _LEAST_CELL)
        cut.append(max(kept, min(word, _LEAST_HEADING)))
    named = [max(cut[0], min(wrapped[0], _LEAST_NAME)), *cut[1:]]
    for least in () if whole else (wrapped, named, cut):
        while sum(widths) > room and widths != least:
            spare = [size if size > low else 0 for size, low in zip(widths, least, strict=True)]
            widths[spare.index(max(spare))] -= 1
    return widths


def _wrapped(heading: str, width: int) -> list[str]:
    """Return a heading in lines, each as long as fits."""
    lines = [""]
    for part in re.findall(r"[^ _]*[ _]*", heading):
        if lines[-1] and len(lines[-1] + part.rstrip(" ")) > width:
            lines.append("")
        lines[-1] += part
    return [line.rstrip(" ") for line in lines]


def shortened(text: str, width: int) -> str:
    """Return a text without its middle, if it is wider than that.

    Parameters
    ----------
    text : str
        One line.
    width : int
        Number of places on a terminal.

    Returns
    -------
    str
    """
    from rich.cells import cell_len

    if cell_len(text) <= width:
        return text
    room = max(width - len(_CUT), 1)
    first, last = _beginning(text, room - room // 2), _beginning(text[::-1], room // 2)[::-1]
    return _beginning(f"{first}{_CUT}{last}", width)


def _beginning(text: str, width: int) -> str:
    """Return as many characters as fit; some take two places."""
    from rich.cells import cell_len

    kept = text[:width]
    while cell_len(kept) > width:
        kept = kept[:-1]
    return kept
