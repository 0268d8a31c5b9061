"""Names of classes: which are the same, which look the same, and their order."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

__all__ = ["natural_key", "normal_name", "similar_names"]

_BLANKS = re.compile(r"[^\S\r\n\v\f\x1c-\x1f\x85]+")
"""All that looks like a blank; not what ends a line or a record."""
_INVISIBLE = "Cf"
"""Unicode's category of characters that are not shown, such as a zero-width space."""


def normal_name(text: str) -> str:
    """Return a name in Unicode's form NFC, with single blanks and none around it.

    Two names that look the same to everybody, such as a file's on macOS and its copy on Linux, are
    then equal.

    Parameters
    ----------
    text : str
        Name of a class, a split or a column.

    Returns
    -------
    str
    """
    return _BLANKS.sub(" ", unicodedata.normalize("NFC", text)).strip(" ")


def natural_key(name: str) -> tuple[Any, ...]:
    """Return a key that sorts names as people do: ``1, 2, 10`` and ``day 2, day 10``.

    Names without digits are in their usual order.

    Parameters
    ----------
    name : str
        Name of a class.

    Returns
    -------
    tuple
        To compare only with others from this function.
    """
    parts: list[Any] = re.split("([0-9]+)", name)
    parts[1::2] = ((len(digits), digits) for each in parts[1::2] for digits in [each.lstrip("0")])
    return (*parts,), name


def similar_names(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return groups of names that may mean the same.

    They differ only by case, blanks, hyphens, Unicode's compatible characters, or as ``1`` and
    ``1.0`` do.

    Parameters
    ----------
    names : iterable of str
        Names of classes.

    Returns
    -------
    list of tuple of str
        Two or more names each, sorted.
    """
    groups: dict[str, set[str]] = defaultdict(set)
    for name in names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        key = "".join(each for each in plain if unicodedata.category(each) != _INVISIBLE)
        number = re.fullmatch(r"\s*([+-]?)0*([0-9]*)(?:\.([0-9]*?)0*)?\s*", key)
        if number and (number[2] or number[3] or "0" in key):
            key = f"{number[1].strip('+')}{number[2] or 0}.{number[3] or ''}"
        else:
            key = re.sub(r"[\s_-]+", "", key) or name
        groups[key].add(name)
    return [tuple(sorted(found)) for found in groups.values() if len(found) > 1]
