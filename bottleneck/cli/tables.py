"""Tables of text that fit the terminal, or 80 columns where there is none."""

import io
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from itertools import takewhile
from typing import Any, TextIO

from bottleneck.cli.streams import escaped, terminal_of, terminal_width
from bottleneck.errors import one_line

__all__ = ["draw_matrix", "draw_table", "kept_apart", "shortened", "shown_whole", "table_fits"]

shown_whole = ContextVar("shown_whole", default=False)
"""Whether tables are printed as wide as they are."""

_UNLIMITED = 100_000
_BETWEEN = " _-./\\"
"""Characters between words of names."""
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
    """Print a table; what does not fit is cut in the middle, or where different cells stay so.

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
    rows = [list(zip(row, widths, strict=True)) for row in cells]
    shown = kept_apart(pair for row in rows for pair in row)
    for row in rows:
        table.add_row(*(shown[pair] for pair in row))
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
        pairs = [[(label, size) for label in labels] for size in (width, width // 2)]
        names, above = (list(map(kept_apart(own).__getitem__, own)) for own in pairs)
        cells = [[name, *map(str, row)] for name, row in zip(names, counts, strict=True)]
        heads = [corner, *above]
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


def kept_apart(pairs: Iterable[tuple[str, int]]) -> dict[tuple[str, int], str]:
    """Return each text as it is shown in its width; different texts stay different.

    Of texts that would look alike, the words that all have are left out, or else what comes before
    the first difference. Texts that this does not tell apart are numbered.

    Parameters
    ----------
    pairs : iterable of (str, int)
        A text of one line, and its width in places on a terminal. A text may have several widths.

    Returns
    -------
    dict of (str, int) to str
    """
    shown = {pair: shortened(*pair) for pair in dict.fromkeys(pairs)}
    if alike := _look_alike(shown):
        cut = list(dict.fromkeys(text for (text, _), short in shown.items() if short != text))
        if found := _cut_apart(cut, shown):
            return shown | found
    for texts in alike:
        shown |= _cut_apart(texts, shown) or {
            pair: _numbered(*pair, texts.index(pair[0]) + 1) for pair in shown if pair[0] in texts
        }
    return shown


def _cut_apart(
    texts: Sequence[str], shown: Mapping[tuple[str, int], str]
) -> dict[tuple[str, int], str]:
    """Return these texts in their widths, cut so that they differ; none where that fails."""
    others = {short for (text, _), short in shown.items() if text not in texts}
    for cut in (_without_common_words, _without_common_prefix):
        left = dict(zip(texts, cut(texts), strict=True))
        found = {pair: _begun(*pair, left[pair[0]]) for pair in shown if pair[0] in left}
        text_of = {short: text for (text, _), short in found.items()}
        told = all(text_of[short] == text for (text, _), short in found.items())
        if told and not others & {*text_of}:
            return found
    return {}


def _begun(text: str, width: int, left: str) -> str:
    """Return what is left of a text that does not fit, after its first letters."""
    from rich.cells import cell_len

    if cell_len(text) <= width:
        return text
    first = _beginning(text, width // 4) if left.startswith(_CUT) else ""
    return first + shortened(left, width - cell_len(first))


def _look_alike(shown: Mapping[tuple[str, int], str]) -> list[list[str]]:
    """Return the groups of different texts that are shown alike in any width."""
    groups: dict[str, list[str]] = {text: [text] for text, _ in shown}
    first: dict[str, str] = {}
    for (text, _), short in shown.items():
        one, other = groups[first.setdefault(short, text)], groups[text]
        if one is not other:
            one += other
            groups |= dict.fromkeys(other, one)
    every = {id(group): group for group in groups.values()}
    return [group for group in every.values() if len(group) > 1]


def _without_common_words(texts: Sequence[str]) -> list[str]:
    """Return texts without the words that all of them have."""
    words = [re.findall(r"[^\W_]+[\W_]*|^[\W_]+", text) for text in texts]
    common = set.intersection(*({each.rstrip(_BETWEEN) for each in own} for own in words))
    left = ([_CUT if each.rstrip(_BETWEEN) in common else each for each in own] for own in words)
    return [re.sub(rf"({re.escape(_CUT)})+", _CUT, "".join(own)) for own in left]


def _without_common_prefix(texts: Sequence[str]) -> list[str]:
    shared = takewhile(lambda letters: len({*letters}) == 1, zip(*texts, strict=False))
    length = sum(1 for _ in shared)
    return [_CUT + text[length:] for text in texts]


def _numbered(text: str, width: int, number: int) -> str:
    return f"{shortened(text, max(width - len(f' #{number}'), 1))} #{number}"


def _beginning(text: str, width: int) -> str:
    """Return as many characters as fit; some take two places."""
    from rich.cells import cell_len

    kept = text[:width]
    while cell_len(kept) > width:
        kept = kept[:-1]
    return kept
