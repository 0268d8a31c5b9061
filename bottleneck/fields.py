"""Settings: each value is declared once, with its type, default and help text.

Checks, command-line options, the keys of ``bottleneck.toml`` and the reference are derived from the
declaration.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from pathlib import Path
from types import NoneType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_doc import Doc
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic.fields import FieldInfo

from bottleneck.arguments import listed
from bottleneck.errors import BottleneckError, UnknownNameError, UsageError, did_you_mean

__all__ = ["ARGUMENT", "Declared", "Option", "check", "declared", "expected", "settings"]

_T = TypeVar("_T")
_CONFIG = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
_TYPES = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
_BOUNDS = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}


@dataclasses.dataclass(frozen=True)
class Option:
    """How a field appears on the command line, if its name and type are not enough.

    Attributes
    ----------
    name : str, optional
        Such as ``--set``, or ``--squash/--crop``; by default from the field's name.
    metavar : str, optional
        Placeholder for its value in the help.
    words : tuple of str
        Values to offer for completion, if others are allowed, too.
    argument : bool
        Whether it is a positional argument.
    hidden : bool
        Whether it is left out of the command line.
    own : bool
        Whether it is specific to its command, so that ``[default]`` of ``bottleneck.toml`` is
        ignored.
    needs, unless : tuple of str
        Other parameters of the command without any of which, or with any of which, it has no
        effect: each as ``name``, or as ``name=PATTERN`` if the value counts.
    writes : bool
        Whether it is a file that the command writes at its end, and checks at its beginning.
    """

    name: str | None = None
    metavar: str | None = None
    words: tuple[str, ...] = ()
    argument: bool = False
    hidden: bool = False
    own: bool = False
    needs: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    writes: bool = False


ARGUMENT = Option(argument=True)


class Declared:
    """A declared value.

    Parameters
    ----------
    name : str
        Name of the parameter.
    annotation : Any
        Type, with its annotations.
    default : Any
        Default value; `dataclasses.MISSING` if it is required.
    group : str
        Title of the settings that declare it.

    Attributes
    ----------
    type : Any
        The type without annotations.
    doc : str
        The help text.
    option : Option
        Its command-line option; the outermost annotation takes precedence.
    takes_several : bool
        Whether it is a list of any length.
    flag : str
        The option's name, without its opposite; in the singular, if it may repeat.
    opposite : str
        The opposite of a flag, such as ``--crop`` or ``--no-balanced``.
    key : str
        The key in ``bottleneck.toml``, equal to the option's name.
    choices : tuple of str
        The allowed words, or the known ones.
    default_text : str
        The default as typed on the command line; empty if there is nothing to show.
    """

    def __init__(self, name: str, annotation: Any, default: Any, group: str = "") -> None:
        self.name, self.annotation, self.default, self.group = name, annotation, default, group
        self.type = get_args(annotation)[0]
        self.takes_several = Ellipsis in get_args(self.type)
        notes = list(_notes(annotation))
        self.doc = next(each.documentation for each in notes if isinstance(each, Doc))
        found = [vars(each) for each in notes if isinstance(each, Option)]
        given = {name: value for each in found for name, value in each.items() if value}
        self.option = Option(**given)
        repeats = self.takes_several and not self.option.argument
        long = f"--{(name.removesuffix('s') if repeats else name).replace('_', '-')}"
        self.flag, _, opposite = (self.option.name or long).partition("/")
        self.opposite = opposite or f"--no-{self.flag[2:]}"
        self.key = self.flag[2:].replace("-", "_")
        words = tuple(each for each in notes if isinstance(each, str))
        self.choices: tuple[str, ...] = self.option.words or words
        nothing = default in {dataclasses.MISSING, None, ()} or self.type is bool
        text = ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)
        self.default_text = "" if nothing else text


@dataclass_transform(frozen_default=True)
def settings(title: str, *, kw_only: bool = False) -> Callable[[type[_T]], type[_T]]:
    """Turn a class of `Annotated` fields into a frozen dataclass that checks its values.

    An invalid value raises a `UsageError` that names the parameter, or an `UnknownNameError`;
    several invalid values are reported together.

    Parameters
    ----------
    title : str
        Title of the group of options in the help.
    kw_only : bool
        Whether its fields are keyword-only, so that subclasses can add required ones.

    Returns
    -------
    callable
        A class decorator.
    """

    def make(cls: type[_T]) -> type[_T]:
        cls.__group__ = title  # type: ignore[attr-defined]
        done: Any = pydantic_dataclass(cls, frozen=True, kw_only=kw_only, config=_CONFIG)
        validate = done.__init__
        first = [each.name for each in dataclasses.fields(done) if not each.kw_only]

        @wraps(validate)
        def init(self: Any, *positional: Any, **given: Any) -> None:
            named = dict(zip(first, positional, strict=False))
            if len(positional) > len(first) or named.keys() & given.keys():
                raise UsageError(
                    f"{cls.__name__} takes only {', '.join(first) or 'nothing'} by position, and "
                    f"each value once; give the others by name"
                )
            try:
                validate(self, **named, **given)
            except ValidationError as error:
                fields = {each.name: each for each in declared(done)}
                raise _refusal(error.errors(), fields) from None
            # In an order of its own, so that copies are pickled as the original is.
            object.__setattr__(self, "__given__", tuple(sorted({*named, *given})))

        done.__init__ = init
        return done  # type: ignore[no-any-return]

    return make


def given_in(made: Any) -> frozenset[str]:
    """Return the names of the values that settings were made with, be they the defaults or not.

    Parameters
    ----------
    made : object
        An object of a class made by `settings`.

    Returns
    -------
    frozenset of str
    """
    return frozenset(made.__given__)


def declared(kind: type) -> list[Declared]:
    """Return the fields of settings: own ones first, then inherited ones.

    Parameters
    ----------
    kind : type
        A class made by `settings`.

    Returns
    -------
    list of Declared
        Each with the title of the class that declares it.
    """
    hints = get_type_hints(kind, include_extras=True)
    defaults = {each.name: each.default for each in dataclasses.fields(kind)}
    return [
        Declared(name, hints[name], defaults[name], vars(cls)["__group__"])
        for cls in kind.__mro__
        for name in vars(cls).get("__annotations__", {})
        if name in defaults
    ]


def check(value: Any, field: Declared, *, strict: bool = False) -> Any:
    """Check and convert a value of a field that does not belong to settings.

    Parameters
    ----------
    value : Any
        `dataclasses.MISSING` if no value is given.
    field : Declared
        The field of the value.
    strict : bool
        Whether the value must have the type that JSON has for it: ``3`` rather than ``"3"``,
        ``true`` rather than ``1``.

    Returns
    -------
    Any
        The converted value.

    Raises
    ------
    UsageError, UnknownNameError
        The value is missing or invalid.
    """
    if value is dataclasses.MISSING:
        raise UsageError(_missing(field))
    adapter = TypeAdapter(field.annotation, config=ConfigDict(arbitrary_types_allowed=True))
    try:
        if strict:
            return adapter.validate_json(json.dumps(value, default=str), strict=True)
        return adapter.validate_python(value)
    except ValidationError as error:
        found = [{**each, "loc": (field.name, *each["loc"])} for each in error.errors()]
        raise _refusal(found, {field.name: field}) from None


def expected(annotation: Any) -> str:
    """Describe a type's values in words, such as ``auto or a whole number of at least 1``.

    Parameters
    ----------
    annotation : Any
        An annotation of a field or parameter.

    Returns
    -------
    str
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _described(*arguments)
    if origin is Literal:
        return listed(arguments)
    if origin is tuple:
        number = "" if Ellipsis in arguments else f"{len(arguments)} values, each "
        return f"{number}{expected(arguments[0])}"
    if arguments:  # a union
        kinds = [each for each in arguments if each is not NoneType]
        return " or ".join(expected(each) for each in kinds if not dataclasses.is_dataclass(each))
    return _TYPES.get(annotation, "a string")


def _described(kind: Any, *notes: Any) -> str:
    """Describe a type with a description or bounds in words."""
    infos = [each for each in notes if isinstance(each, FieldInfo)]
    if said := next((each.description for each in infos if each.description), ""):
        return said
    bounds = {
        name: f"{limit:g}" if isinstance(limit, float) else str(limit)
        for each in infos
        for bound in each.metadata
        for name in _BOUNDS
        if (limit := getattr(bound, name, None)) is not None
    }
    if bounds.keys() == {"ge", "le"}:
        return f"{expected(kind)} from {bounds['ge']} to {bounds['le']}"
    limits = [f"{words} {bounds[name]}" for name, words in _BOUNDS.items() if name in bounds]
    return " ".join([expected(kind), " and ".join(limits)]).strip()


def _notes(annotation: Any) -> Iterator[Any]:
    """Yield the annotations and literals of a type and its parts, innermost first."""
    for each in get_args(annotation):
        yield from _notes(each) if get_args(each) else [each]


def _missing(field: Declared) -> str:
    return f"`{field.name}` is missing: {field.doc[0].lower()}{field.doc[1:].rstrip('.')}"


def _refusal(errors: Sequence[Mapping[str, Any]], fields: Mapping[str, Declared]) -> Exception:
    """Return an error that describes the invalid values in one sentence."""
    told: dict[str, str] = {}
    types = {each["type"] for each in errors}
    for error in errors:
        name, given = next(iter(error["loc"]), ""), error["input"]
        own = error.get("ctx", {}).get("error")
        if isinstance(own, BottleneckError):  # a check of ours has said it
            if len(errors) == 1:
                return own
            told[name] = str(own)
        elif name not in fields:
            told[name] = f"there is no `{name}`{did_you_mean(name, fields)}"
        elif error["type"] == "missing" and len(error["loc"]) == 1:
            told[name] = _missing(fields[name])
        elif name not in told:
            field = fields[name]
            near = did_you_mean(given, field.choices) if isinstance(given, str) else ""
            told[name] = f"`{name}` must be {expected(field.annotation)}, got {given!r:.80}{near}"
    kind = UnknownNameError if types <= {"literal_error", "dataclass_type"} else UsageError
    return kind("; ".join(told.values()).replace("?; ", "?, and "))
