"""Commands: functions whose settings become options, and their values in ``bottleneck.toml``."""

import inspect
import re
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_type_hints

from bottleneck.cli.options import FORMS
from bottleneck.cli.output import end_with, printed_as, wanted
from bottleneck.cli.outputs import check_writables
from bottleneck.cli.streams import escaped_on_terminals
from bottleneck.errors import BottleneckError, PathMissingError, UsageError, did_you_mean
from bottleneck.fields import Declared, check, declared
from bottleneck.inputs import read_regular

__all__ = ["COMMANDS", "Command", "Config", "add_command", "in_order"]

_PANELS = ("Features", "Heads", "Judge", "Fine-tune", "Ship", "Other")
_SHARED = "default"
_WIDE = "wide"
_GROUP = "cache"
_NOT_GIVEN = (None, MISSING, False, "0", 0, ())

_F = TypeVar("_F", bound=Callable[..., Any])


class Configured(NamedTuple):
    """A value from the file, and its table, such as ``[cache.ls]``."""

    value: Any
    table: str


@dataclass(frozen=True)
class Config:
    """The values in a file, by command.

    Attributes
    ----------
    file : Path or None
        The file; None if there is none.
    option : str or None
        The path given by ``--config``; None if the file was found by default.
    values : mapping of str to dict
        Values of each command, by parameter name.
    """

    file: Path | None = None
    option: str | None = None
    values: Mapping[str, dict[str, Configured]] = field(default_factory=lambda: defaultdict(dict))


class Command:
    """A function whose parameters are settings, or single values declared like fields of settings.

    A parameter of the type `Config` gets the file of settings.

    Parameters
    ----------
    name : str
        Name as typed, such as ``cache verify``.
    function : callable
        The function to call.
    panel : str
        Title of its group in the help.
    *forms : str
        Names of the flags for the forms of its results besides text, which exclude each other; and
        ``wide``, if it prints tables.

    Attributes
    ----------
    values : dict of str to Declared
        All values by name; a value in several settings appears once.
    """

    def __init__(self, name: str, function: Callable[..., Any], panel: str, *forms: str) -> None:
        self.name, self.function, self.panel, self.forms = name, function, panel, forms
        self.values: dict[str, Declared] = {}
        self._parameters: dict[str, tuple[Any, list[Declared]]] = {}
        hints = get_type_hints(function, include_extras=True)
        for parameter, each in inspect.signature(function).parameters.items():
            kind = hints[parameter]
            if kind is Config:
                fields = []
            elif hasattr(kind, "__group__"):
                fields = declared(kind)
            else:
                default = MISSING if each.default is each.empty else each.default
                fields = [Declared(parameter, kind, default)]
            self._parameters[parameter] = kind, fields
            for value in fields:
                if not value.option.hidden:
                    self.values.setdefault(value.name, value)
        for form in forms:
            self.values.setdefault(form, Declared(form, FORMS[form], default=False))

    def run(
        self,
        typed: Mapping[str, Any],
        file: str | None = None,
        *,
        refused: Callable[[str, int], Any] | None = None,
    ) -> Any:
        """Call the function; an error is printed and ends the process with 2 or 1.

        Parameters
        ----------
        typed : mapping of str to Any
            Values by name. They take precedence over the file, which takes precedence over
            defaults.
        file : str, optional
            The file of settings; by default ``bottleneck.toml``, if it exists.
        refused : callable, optional
            Takes an error and its exit status, and returns the result in place of the function.
        """
        with escaped_on_terminals():
            return self._run(typed, file, refused)

    def _run(
        self,
        typed: Mapping[str, Any],
        file: str | None,
        refused: Callable[[str, int], Any] | None,
    ) -> Any:
        config, given = Config(), dict(typed)
        try:
            config = _read_config(file)
            given = {name: each.value for name, each in config.values[self.name].items()}
            given |= typed
            self._check_effects([name for name in typed if typed[name] is not False], given)
            flags = {name: self.values[name].key for name in self.forms if given.get(name)}
            wide = flags.pop(_WIDE, None) is not None
            forms = list(flags.values())
            if len(forms) > 1:
                raise UsageError(f"`{forms[0]}` and `{forms[1]}` exclude each other; give one")
            with printed_as(*forms, wide=wide):
                arguments = self.arguments(given, config)
                check_writables(self.values.values(), given)
                return self.function(**arguments)
        except BottleneckError as error:
            own = {name: it for name, it in config.values[self.name].items() if name not in typed}
            code = 2 if isinstance(error, UsageError) else 1
            told = self._told(str(error), own, config.file)
            if refused:
                return refused(told, code)
            end_with(told, code, as_json=bool(given.get("as_json")) or wanted("json"))

    def _check_effects(self, typed: Iterable[str], given: Mapping[str, Any]) -> None:
        """Reject what has no effect beside the other values; in the file, it is for other runs."""

        def holds(condition: str) -> bool:
            name, _, pattern = condition.partition("=")
            value = given.get(name, name in self.values and self.values[name].default)
            if pattern:
                return fnmatch(str(value).lower(), pattern)
            return value not in _NOT_GIVEN

        for name in typed:
            option = self.values[name].option
            if option.needs and not any(map(holds, option.needs)):
                needed = " or ".join(f"`{each}`" for each in option.needs)
                raise UsageError(
                    f"`{name}` has no effect without {needed}; give {needed}, or leave `{name}` out"
                )
            if odd := next(filter(holds, option.unless), None):
                raise UsageError(f"`{name}` and `{odd}` exclude each other; give one")

    def arguments(self, given: Mapping[str, Any], config: Config) -> dict[str, Any]:
        """Return the arguments of the function, checked.

        Parameters
        ----------
        given : mapping of str to Any
            Values by name, those of the file included.
        config : Config
            The file, for a parameter of that type.

        Returns
        -------
        dict of str to Any

        Raises
        ------
        UsageError, UnknownNameError
            A value is missing or invalid.
        """
        found: dict[str, Any] = {}
        for name, (kind, fields) in self._parameters.items():
            own = {each.name: given[each.name] for each in fields if each.name in given}
            if kind is Config:
                found[name] = config
            elif hasattr(kind, "__group__"):
                found[name] = kind(**own)
            elif own or fields[0].default is MISSING:
                found[name] = check(own.get(name, MISSING), fields[0])
        return found

    def _told(self, text: str, configured: Mapping[str, Configured], file: Path | None) -> str:
        """Return an error message with options in place of parameter names between backticks.

        A name stands alone, or in ``name=value``. If the file has set it, that is added.
        """
        commands = (*COMMANDS.values(), self)  # its own last: they win
        values = [value for command in commands for value in command.values.values()]
        known = {name: value for value in values for name in (value.key, value.name)}
        origins: dict[str, str] = {}

        def option(found: re.Match[str]) -> str:
            name, value = found.groups()
            if name not in known:
                return found[0].strip("`")
            each = known[name]
            if each.name in configured:
                origins[each.key] = configured[each.name].table
            if value == "False":
                return each.opposite
            flag = name.upper() if each.option.argument else each.flag
            return f"{flag} {value}" if value and value != "True" else flag

        told = re.sub(r"`([A-Za-z_]+)(?:=([^`]*))?`", option, text)
        remark = ", ".join(f"{key} in {table}" for key, table in origins.items())
        return f"{told} ({str(file)!r} sets {remark})" if remark else told


COMMANDS: dict[str, Command] = {}
"""All commands by name."""


def add_command(name: str, panel: str, *forms: str) -> Callable[[_F], _F]:
    """Register a function as a command; ``cache verify`` belongs to the group ``cache``.

    Parameters
    ----------
    name, panel : str
        Name of the command as typed, and its group in the help.
    *forms : str
        See `Command`; by default ``as_json``.

    Returns
    -------
    callable
    """

    def add(function: _F) -> _F:
        COMMANDS[name] = Command(name, function, panel, *(forms or ["as_json"]))
        return function

    return add


def in_order() -> list[Command]:
    """Return all commands in the order of their panels."""
    return sorted(COMMANDS.values(), key=lambda each: _PANELS.index(each.panel))


def _read_config(file: str | None) -> Config:
    """Read the values of each command from a file.

    Keys are the names of options, and values have TOML's types: numbers and flags have no quotes;
    an option that may repeat takes a list or one value. A command's own table takes precedence over
    ``[default]``, whose keys apply to all commands with that option that accept the value.

    Parameters
    ----------
    file : str, optional
        By default ``bottleneck.toml`` in the working folder, if it exists. ``cache verify`` has
        the table ``[cache.verify]``.

    Returns
    -------
    Config
        All values of the file, checked.

    Raises
    ------
    PathMissingError
        The file does not exist.
    UsageError
        The file is not TOML, a table or key is unknown, or a value is invalid.
    """
    path = Path(file or "bottleneck.toml")
    if file is None and not path.is_file():
        return Config()
    try:
        tables = _tables_of(path)
        if isinstance(tables.get(_GROUP), dict):  # [cache.ls] is the table of `cache ls`
            tables |= {f"{_GROUP} {name}": own for name, own in tables.pop(_GROUP).items()}
        found = Config(path, file)
        for table in sorted(tables, key=_SHARED.__ne__):  # the shared table first
            _take(found, table, tables[table])
    except FileNotFoundError:
        raise PathMissingError(f"no file {file!r}; give another with --config") from None
    return found


def _tables_of(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file."""
    try:
        return tomllib.loads(read_regular(path).decode())
    except RecursionError:
        raise UsageError(f"{str(path)!r} is nested too deeply; correct it") from None
    except ValueError as error:  # also of digits that are too many for Python
        raise UsageError(f"{str(path)!r} is not valid TOML ({error}); correct it") from error


def _take(config: Config, table: str, content: Any) -> None:
    """Assign the values of a table to its commands."""
    path, shown = str(config.file), table.replace(" ", ".")
    known = table in {_SHARED, *COMMANDS}
    if not isinstance(content, dict):
        raise UsageError(
            f"{path!r}: [{shown}] must be a table of settings, got {content!r:.80}"
            if known
            else f"{path!r} has the key {shown!r} outside of a command's table; put it under "
            f"[{_SHARED}] or the name of a command"
        )
    if not known:
        tables = [_SHARED, *(name.replace(" ", ".") for name in COMMANDS)]
        raise UsageError(
            f"{path!r} has the table [{shown}], which is not a command; expected [{_SHARED}] or "
            f"a command's name{did_you_mean(shown, tables)}"
        )
    fields = [
        (name, each)
        for name in (COMMANDS if table == _SHARED else [table])
        for each in COMMANDS[name].values.values()
        if table != _SHARED or not each.option.own
    ]
    for key, value in content.items():
        fitting = [(name, each) for name, each in fields if each.key == key.replace("-", "_")]
        if not fitting:
            raise UsageError(
                f"{path!r} has an unknown key {key!r} in [{shown}]; 'bottleneck config' lists "
                f"those that exist{did_you_mean(key, {each.key for _, each in fields})}"
            )
        refusals = []
        for name, each in fitting:
            own = [value] if each.takes_several and not isinstance(value, list) else value
            try:
                check(own, each, strict=True)
                config.values[name][each.name] = Configured(own, f"[{shown}]")
            except UsageError as error:
                refusals.append(str(error).replace(f"`{each.name}`", each.key))
        if len(refusals) == len(fitting):
            raise UsageError(f"[{shown}] in {path!r}: {refusals[0]}")
