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
    places : dict of str to object
        Where each file lies, by name.
    refused : list of (str, str)
        Names and reasons; the name "" is the archive itself.
    """

    places: dict[str, Any] = field(default_factory=dict)
    refused: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def recalled(cls, facts: tuple[Any, ...]) -> "Members | None":
        """Return the files of a tar archive that were remembered.

        Parameters
        ----------
        facts : tuple of objects
            The attributes, in types of JSON.

        Returns
        -------
        Members or None
            None if they are something else.
        """
        match facts:
            case (dict() as places, list() as refused):
                pairs = all(_is_pair(each, int) for each in places.values())
                if pairs and all(_is_pair(each, str) for each in refused):
                    return cls(
                        {name: tuple(place) for name, place in places.items()},
                        [tuple(each) for each in refused],
                    )
        return None

    def add(self, name: str, place: Any, reason: str = "") -> None:
        """Add a file, unless there is a reason against it.

        Parameters
        ----------
        name : str
            As the archive has it.
        place : object
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


def _is_pair(value: object, kind: type) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(each) is kind for each in value)  # noqa: PLR2004 - a pair
