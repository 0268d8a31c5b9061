"""Files that have images in them, and what is known of what is in them."""

from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

__all__ = ["Container", "Members"]


class Container(Protocol):
    """A file that has images in it.

    Attributes
    ----------
    version : str
        Changes when its bytes do.
    """

    version: str

    def names(self) -> list[str]:
        """Return the names of its files, in the order in which they are read fastest."""
        ...

    def refused(self) -> list[tuple[str, str]]:
        """Return the names of what is no file that can be read, with the reasons."""
        ...

    def has(self, name: str) -> bool:
        """Return whether it has a file of a name.

        Parameters
        ----------
        name : str
            As in `names`.

        Returns
        -------
        bool
        """
        ...

    def open(self, name: str) -> BinaryIO:
        """Open a file; raise `KeyError` if there is none of that name.

        Parameters
        ----------
        name : str
            One of `names`.

        Returns
        -------
        binary file
        """
        ...


@dataclass
class Members:
    """The files of an archive, and what else is in it.

    Attributes
    ----------
    places : dict of str to tuple of int
        Where each file lies, by name, and what else is needed to read it.
    refused : list of (str, str)
        Names and reasons; the name "" is the archive itself.
    """

    places: dict[str, tuple[int, ...]] = field(default_factory=dict)
    refused: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def recalled(cls, facts: tuple[Any, ...], numbers: int) -> "Members | None":
        """Return the files of an archive that were remembered.

        Parameters
        ----------
        facts : tuple of objects
            The attributes, in types of JSON.
        numbers : int
            How many tell where a file lies.

        Returns
        -------
        Members or None
            None if they are something else.
        """
        match facts:
            case (dict() as places, list() as refused):
                known = all(_are(int, numbers, each) for each in places.values())
                if known and all(_are(str, 2, each) for each in refused):
                    return cls(
                        {name: tuple(place) for name, place in places.items()},
                        [tuple(each) for each in refused],
                    )
        return None

    def add(self, name: str, place: tuple[int, ...], reason: str = "") -> None:
        """Add a file, unless there is a reason against it.

        Parameters
        ----------
        name : str
            As the archive has it.
        place : tuple of int
            Where it lies.
        reason : str
            Why it cannot be read.
        """
        parts = [part for part in name.split("/") if part not in {"", "."}]
        clean = "/".join(parts)
        if name.startswith("/") or ".." in parts or "\0" in name or not parts:
            reason = reason or "its name leads out of the archive"
            clean = name.replace("\0", "?")
        if reason:
            self.refused.append((clean, reason))
            return
        if clean in self.places:
            self.refused.append((clean, "the archive has a later file of the same name"))
            del self.places[clean]
        self.places[clean] = place


def _are(kind: type, count: int, value: Any) -> bool:
    right = isinstance(value, list) and len(value) == count
    return right and all(type(each) is kind for each in value)
