"""Declare, write and read records.

A record is a dataclass. It is written as JSON with a digest of itself, and checked key by key when
it is read: a missing key or an invalid value is reported in one sentence.
"""

import json
import reprlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from bottleneck.errors import (
    STORE_AGAIN,
    BottleneckError,
    CacheError,
    DamagedError,
    DataError,
    OtherVersionError,
)
from bottleneck.files import read_json, write_json
from bottleneck.settings import values

STRICT = ConfigDict(strict=True, allow_inf_nan=False)


def among(choices: Any) -> AfterValidator:
    """Return a validator that a text is one of a `Literal`'s values.

    Parameters
    ----------
    choices : Any
        A `Literal` of texts.

    Returns
    -------
    AfterValidator
        Raises `ValueError` for any other text.
    """

    def check(value: str) -> str:
        if value not in get_args(choices):
            raise ValueError(f"one of {', '.join(map(repr, get_args(choices)))}")
        return value

    return AfterValidator(check)


def _is_finite(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise ValueError("finite numbers") from None
    return value


def _is_time(value: str) -> str:
    with suppress(ValueError):
        if datetime.fromisoformat(value).tzinfo:
            return value
    raise ValueError("a time in ISO format, with its zone")


Json = Annotated[Any, AfterValidator(_is_finite)]
"""Any JSON value with finite numbers."""
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
BankName = Annotated[str, Field(pattern=r"^[^/\\]+-[0-9a-f]{12}$")]
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Size = Annotated[int, Field(ge=1)]
Pixels = tuple[Size, Size]
Time = Annotated[str, AfterValidator(_is_time)]
Pool = Annotated[str, among(values.Pool)]
Axes = Annotated[str, among(Literal["C", "CHW", "HWC", "TC", ""])]
"""Possible axes of a stored row; the last for unknown axes."""
Storage = Annotated[str, among(values.Dtype)]
Computed = Annotated[str, among(Literal["fp32", "bf16", "fp16", ""])]
Interpolation = Annotated[str, among(values.Interpolation)]


class OtherVersion(ValueError):  # noqa: N818 - `Record.refusal` makes the error of it
    """Another version of this package wrote the record."""


class Record:
    """Base class of all records."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    SCHEMA: ClassVar[int | None] = None
    """Raised whenever older versions must not read new files; none if the content shows it."""
    READS: ClassVar[tuple[int, ...]] = ()
    """Earlier schemas whose files are read, too."""
    ERROR: ClassVar[type[BottleneckError]] = DataError
    SENTENCE: ClassVar[str] = "{path!r} cannot be read ({error})"
    """Of the error for a file that cannot be read; ``{folder!r}`` is the file's folder."""

    @classmethod
    def upgraded(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Convert the content of older versions to this version's.

        Parameters
        ----------
        content : dict of str to Any
            Content of the JSON file.

        Returns
        -------
        dict of str to Any
        """
        return content

    @classmethod
    def refusal(cls, path: Path, error: Exception) -> BottleneckError:
        """Return the error for a file that cannot be read, or is invalid.

        Parameters
        ----------
        path : Path
            The file.
        error : Exception
            Why.

        Returns
        -------
        BottleneckError
            An `ERROR` with the `SENTENCE`, unless a kind of record says otherwise.
        """
        return cls.ERROR(cls.SENTENCE.format(error=error, path=str(path), folder=str(path.parent)))

    def as_dict(self) -> dict[str, Any]:
        """Return the record in JSON types."""
        return as_dict(self, type(self))


_R = TypeVar("_R", bound=Record)


class CacheRecord(Record):
    """A record in the cache folder."""

    @classmethod
    def refusal(cls, path: Path, error: Exception) -> BottleneckError:
        """Return the error for a file of the cache that cannot be read, or is invalid.

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
                f"{str(path)!r} cannot be read ({error.strerror}); restore it, or {STORE_AGAIN}"
            )
        if isinstance(error, OtherVersion):
            return OtherVersionError(f"{str(path)!r} cannot be read ({error}); {STORE_AGAIN}")
        return DamagedError(path, str(error))


def without_defaults(self: Any, handler: Any) -> dict[str, Any]:
    """Leave out default values that earlier versions do not know.

    Parameters
    ----------
    self : Record
        The record.
    handler : callable
        Pydantic's serializer.

    Returns
    -------
    dict of str to Any
    """
    content = handler(self)
    differing = [each.name for each in fields(self) if getattr(self, each.name) != each.default]
    return {name: content[name] for name in differing}


def facts_of(record: Record, kind: type[Record]) -> dict[str, Any]:
    """Return the facts that a record shares with a kind of record, to build one of that kind.

    Parameters
    ----------
    record : Record
        A record of the kind, or of a subclass.
    kind : type
        The kind of record with the facts.

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
    """Return the facts that a record shares with a kind of record, in JSON types.

    Parameters
    ----------
    record : Record
        A record of the kind, or of a subclass.
    kind : type
        The kind of record with the facts.

    Returns
    -------
    dict of str to Any
    """
    # Pydantic's own JSON would silently write null for nan.
    found: dict[str, Any] = json.loads(json.dumps(_adapter(kind).dump_python(record)))
    return found


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON with a digest of itself, completely or not at all.

    Parameters
    ----------
    path : Path
        Path of the file; its folder is created if necessary.
    record : Record
        The record to write.

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
    """Read a file from `write_record`.

    Parameters
    ----------
    path : Path
        The file.
    kind : type
        The kind of the record.

    Returns
    -------
    Record
        A record of that kind.

    Raises
    ------
    BottleneckError
        The kind's `refusal`: the file cannot be read, is damaged, lacks a key, or has an invalid
        value.
    """
    try:
        return parse_record(read_json(path), kind)
    except (OSError, ValueError) as error:
        raise kind.refusal(path, error) from error


def parse_record(content: dict[str, Any], kind: type[_R]) -> _R:
    """Check content from JSON; a `ValueError` names what was found and what was expected.

    Parameters
    ----------
    content : dict of str to Any
        Content of the JSON file.
    kind : type
        The kind of the record.

    Returns
    -------
    Record
        A record of that kind.

    Raises
    ------
    ValueError
        A key is missing, a value is invalid, or another version wrote the record.
    """
    if kind.SCHEMA is not None:
        found = content.get("schema")
        if type(found) is not int:
            raise ValueError(f"'schema' is {reprlib.repr(found)}, expected {kind.SCHEMA}")
        if found not in {kind.SCHEMA, *kind.READS}:
            raise OtherVersion(
                f"another version of this package wrote it: schema {found}, expected {kind.SCHEMA}"
            )
    try:
        return _adapter(kind).validate_json(json.dumps(kind.upgraded(content)))  # type: ignore[no-any-return]
    except ValidationError as error:
        raise ValueError(sentence_of(error)) from error


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)
"""Returns the validator of a kind of record, built on first use."""


def sentence_of(error: ValidationError) -> str:
    """Return what was found and what was expected, for the first invalid key.

    Parameters
    ----------
    error : ValidationError
        Pydantic's error.

    Returns
    -------
    str
    """
    wrong = error.errors(include_url=False, include_context=False)[0]
    keys = [str(each) for each in wrong["loc"] if not str(each).startswith("<")]  # no tags
    key, message = ".".join(keys), wrong["msg"]
    if wrong["type"] == "missing":
        return f"it has no {key!r}"
    if not key:
        return message
    if wrong["type"] == "extra_forbidden":
        return f"it has an unknown key {key!r}"
    for prefix in ("Input should be ", "Value error, "):
        message = message.removeprefix(prefix)
    expected = message.replace("String should match", "text that matches")
    return f"{key!r} is {reprlib.repr(wrong['input'])}, expected {expected}"
