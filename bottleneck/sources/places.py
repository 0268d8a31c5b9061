"""Where images lie: paths of files, URLs, and members of containers, each as one text."""

import re
from pathlib import Path

from bottleneck.errors import UsageError

__all__ = [
    "CONTAINER_SUFFIXES",
    "Address",
    "is_remote",
    "is_web",
    "location",
    "parted",
    "suffix_of",
]

_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/+")
"""A scheme of two letters or more: one letter is a drive."""
_CHAIN = re.compile(r"[a-zA-Z0-9]+::[^/]*:/")
CONTAINER_SUFFIXES = (
    *(".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip"),
    *(".parquet", ".arrow"),
)
"""Endings of files that have images in them."""
_QUERY = "?"
_INSIDE = re.compile(
    rf"(?:{'|'.join(map(re.escape, CONTAINER_SUFFIXES))})(?:\{_QUERY}[^/]*)?(?=/)", re.IGNORECASE
)


class Address(type(Path())):  # type: ignore[misc]
    """A URL as a path: ``/``, `name`, `parent` and `relative_to` work, and its text is the URL.

    A plain `Path` of a URL would have one slash where the URL has two. The query of a web address,
    as ``?key=...`` of a signed one, is not in its `name`, nor in its `suffix`.
    """

    @property
    def name(self) -> str:
        """The last part."""
        whole: str = super().name
        return whole.partition(_QUERY)[0] if _QUERY in whole and is_web(self) else whole

    def __str__(self) -> str:
        return _URL.sub(r"\1://", super().__str__(), count=1)

    def absolute(self) -> "Address":
        """Return the URL, which is absolute."""
        return self

    def resolve(self, strict: bool = False) -> "Address":  # noqa: ARG002, FBT001, FBT002 - as Path's
        """Return the URL, in which no link is followed."""
        return self


def location(path: str | Path) -> Path:
    """Return the path of a text, which may be a URL, also where a path has swallowed its slash.

    Parameters
    ----------
    path : str or Path
        A path or a URL.

    Returns
    -------
    Path
        An `Address` if it is a URL; the path of the file if its scheme is ``file``.

    Raises
    ------
    UsageError
        It is a chain of fsspec, as ``simplecache::https://...``.
    """
    text = str(path)
    if _CHAIN.match(text):
        raise UsageError(f"{text!r} has several file systems in a row; give the last URL alone")
    if not (found := _URL.match(text)):
        return Path(path)
    if found[1].lower() == "file":
        return Path("/", text[found.end() :])
    return Address(found[1].lower() + text[found.end(1) :])


def is_remote(path: str | Path) -> bool:
    """Return whether a path is a URL.

    Parameters
    ----------
    path : str or Path
        A path or a URL.

    Returns
    -------
    bool
    """
    return _URL.match(str(path)) is not None


def is_web(path: str | Path) -> bool:
    """Return whether a path is an address of the web.

    Parameters
    ----------
    path : str or Path
        A path or a URL.

    Returns
    -------
    bool
    """
    return str(path).startswith(("http://", "https://"))


def suffix_of(path: Path) -> str:
    """Return the ending of a container, in lower case.

    Parameters
    ----------
    path : Path
        A path.

    Returns
    -------
    str
        One of `CONTAINER_SUFFIXES`; "" if it has none of them.
    """
    name = path.name.lower()
    found = [each for each in CONTAINER_SUFFIXES if name.endswith(each) and name != each]
    return max(found, key=len, default="")


def parted(text: str) -> tuple[str, str] | None:
    """Divide a path at its first file that may be a container.

    Parameters
    ----------
    text : str
        A path, such as ``data/x.tar/cat/1.jpg``.

    Returns
    -------
    (str, str) or None
        The container and the member's name. None if no folder on the way has the ending of a
        container, which only costs a search in the text.
    """
    for found in _INSIDE.finditer(text):
        container, member = text[: found.end()], text[found.end() + 1 :]
        if member and (is_remote(text) or not Path(container).is_dir()):
            return container, member
    return None
