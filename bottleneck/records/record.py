"""How records are declared, written and read.

A record is a dataclass. It is written as JSON with a digest of itself, and checked key by key when
it is read: a key that is missing, or whose value cannot be, is one sentence.
"""

import json
import reprlib
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from bottleneck.errors import (
    BottleneckError,
    CacheError,
    DamagedError,
    DataError,
    OtherVersionError,
)
from bottleneck.files import read_json, write_json

STRICT = ConfigDict(strict=True, allow_inf_nan=False)


class OtherVersion(ValueError):  # noqa: N818 - `Record.refusal` makes the error of it
    """Another version of this package wrote the record."""


class Record:
    """Base of all records."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    SCHEMA: ClassVar[int | None] = None
    """Raised whenever files of before cannot be read any more; none where the content tells."""

    @classmethod
    def upgraded(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Return what this version writes in place of what earlier ones did.

        Parameters
        ----------
        content : dict of str to Any
            What JSON held.

        Returns
        -------
        dict of str to Any
        """
        return content

    @classmethod
    def refusal(cls, path: Path, error: Exception) -> BottleneckError:
        """Return what to raise where a file cannot be read, or is wrong.

        Parameters
        ----------
        path : Path
            The file.
        error : Exception
            Why.

        Returns
        -------
        BottleneckError
            A `DataError`, unless a kind of record says otherwise.
        """
        return DataError(f"{str(path)!r} cannot be read ({error})")

    def as_dict(self) -> dict[str, Any]:
        """Return the record as JSON holds it."""
        return as_dict(self, type(self))


_R = TypeVar("_R", bound=Record)


class CacheRecord(Record):
    """A record in the cache folder."""

    @classmethod
    def refusal(cls, path: Path, error: Exception) -> BottleneckError:
        """Return what to raise where a file of the cache cannot be read, or is wrong.

        Parameters
        ----------
        path : Path
            The file.
        error : Exception
            Why.

        Returns
        -------
        BottleneckError
            A `CacheError`.
        """
        if isinstance(error, OSError):
            return CacheError(
                f"{str(path)!r} cannot be read ({error.strerror}); restore it, or extract again"
            )
        if isinstance(error, OtherVersion):
            return OtherVersionError(f"{str(path)!r} cannot be read ({error}); extract again")
        return DamagedError(path, str(error))


def without_defaults(self: Any, handler: Any) -> dict[str, Any]:
    """Leave out what need not be said, as earlier versions did not know it.

    Parameters
    ----------
    self : Record
        The record.
    handler : callable
        Pydantic's own serializer.

    Returns
    -------
    dict of str to Any
    """
    defaults = {each.name: each.default for each in fields(self) if each.default is not MISSING}
    return {
        key: value
        for key, value in handler(self).items()
        if key not in defaults or getattr(self, key) != defaults[key]
    }


def facts_of(record: Record, kind: type[Record]) -> dict[str, Any]:
    """Return the facts that a record shares with all of a kind, to make another of them.

    Parameters
    ----------
    record : Record
        Of the kind, or of one derived from it.
    kind : type
        The kind of record that has the facts.

    Returns
    -------
    dict of str to Any

    Raises
    ------
    AttributeError
        The record lacks one of the facts.
    """
    return {each.name: getattr(record, each.name) for each in fields(kind)}  # type: ignore[arg-type]


def as_dict(record: Record, kind: type[Record]) -> dict[str, Any]:
    """Return the facts that a record shares with all of a kind, as JSON holds them.

    Parameters
    ----------
    record : Record
        Of the kind, or of one derived from it.
    kind : type
        The kind of record that has the facts.

    Returns
    -------
    dict of str to Any
    """
    # Pydantic's own JSON would have null for nan, which must not be written unseen.
    found: dict[str, Any] = json.loads(json.dumps(_adapter(kind).dump_python(record)))
    return found


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON with a digest of itself, whole or not at all.

    Parameters
    ----------
    path : Path
        Its folder is made if need be.
    record : Record
        What to write.

    Raises
    ------
    OSError
        The folder cannot be written.
    ValueError
        A number is not finite.
    """
    version = {} if record.SCHEMA is None else {"schema": record.SCHEMA}
    write_json(path, {**version, **record.as_dict()})


def read_record(path: Path, kind: type[_R]) -> _R:
    """Read what `write_record` wrote.

    Parameters
    ----------
    path : Path
        The file.
    kind : type
        The kind of record that it holds.

    Returns
    -------
    Record
        Of that kind.

    Raises
    ------
    BottleneckError
        What the kind's `refusal` says: the file cannot be read, is damaged, lacks a key, or has a
        value that cannot be.
    """
    try:
        return parse_record(read_json(path), kind)
    except (OSError, ValueError) as error:
        raise kind.refusal(path, error) from error


def parse_record(content: dict[str, Any], kind: type[_R]) -> _R:
    """Check what JSON held; a `ValueError` says what was found, and what was expected.

    Parameters
    ----------
    content : dict of str to Any
        What JSON held.
    kind : type
        The kind of record that it is.

    Returns
    -------
    Record
        Of that kind.

    Raises
    ------
    ValueError
        A key is missing, a value cannot be right, or another version wrote it.
    """
    if kind.SCHEMA is not None:
        found = content.get("schema")
        if type(found) is not int:
            raise ValueError(f"'schema' is {reprlib.repr(found)}, expected {kind.SCHEMA}")
        if found != kind.SCHEMA:
            raise OtherVersion(
                f"it is of another version of this package (schema {found}, expected {kind.SCHEMA})"
            )
    try:
        return _adapter(kind).validate_json(json.dumps(kind.upgraded(content)))  # type: ignore[no-any-return]
    except ValidationError as error:
        raise ValueError(_sentence(error)) from error


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)
"""Returns what checks and writes a kind of record; it is made when it is first needed."""


def _sentence(error: ValidationError) -> str:
    """Return what was found and what was expected instead, of the first wrong key."""
    wrong = error.errors(include_url=False, include_context=False)[0]
    key, message = ".".join(map(str, wrong["loc"])), wrong["msg"]
    if wrong["type"] == "missing":
        return f"it has no {key!r}"
    if not key:
        return message
    if wrong["type"] == "extra_forbidden":
        return f"it has {key!r}, which is not known"
    for prefix in ("Input should be ", "Value error, "):
        message = message.removeprefix(prefix)
    expected = message.replace("String should match", "text that matches")
    return f"{key!r} is {reprlib.repr(wrong['input'])}, expected {expected}"
