"""Read settings from ``bottleneck.toml``: a table for each command, and ``[default]`` for all."""

import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bottleneck.errors import PathMissingError, UsageError, did_you_mean
from bottleneck.fields import Declared, check

__all__ = ["Config", "Configured", "read_config"]

_FILE = "bottleneck.toml"
_SHARED = "default"
_GROUP = "cache"

_Fields = Mapping[str, Declared]


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


def read_config(file: str | None, commands: Mapping[str, _Fields]) -> Config:
    """Read the values of each command from a file.

    Keys are the names of options, and values have TOML's types: numbers and flags have no quotes;
    an option that may repeat takes a list or one value. A command's own table takes precedence over
    ``[default]``, whose keys apply to all commands with that option that accept the value.

    Parameters
    ----------
    file : str, optional
        By default ``bottleneck.toml`` in the working folder, if it exists.
    commands : mapping of str to mapping
        The values of each command, by name; ``cache verify`` has the table ``[cache.verify]``.

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
    path = Path(file or _FILE)
    if file is None and not path.is_file():
        return Config()
    try:
        tables = dict(_tables(tomllib.loads(path.read_text(encoding="utf-8"))))
        found = Config(path, file)
        for table in sorted(tables, key=_SHARED.__ne__):  # the shared table first
            _take(found, commands, table, tables[table])
    except FileNotFoundError:
        raise PathMissingError(f"no file {file!r}; give another with --config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{str(path)!r} is not valid TOML ({error}); correct it") from error
    return found


def _tables(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield tables with command names: ``cache ls`` is ``[cache.ls]``."""
    for name, table in content.items():
        if name == _GROUP and isinstance(table, dict):
            yield from ((f"{name} {command}", own) for command, own in table.items())
        else:
            yield name, table


def _take(config: Config, commands: Mapping[str, _Fields], table: str, content: Any) -> None:
    """Assign the values of a table to its commands."""
    path, shown = str(config.file), table.replace(" ", ".")
    known = table in {_SHARED, *commands}
    if not isinstance(content, dict):
        raise UsageError(
            f"{path!r}: [{shown}] must be a table of settings, got {content!r:.80}"
            if known
            else f"{path!r} has the key {shown!r} outside of a command's table; put it under "
            f"[{_SHARED}] or the name of a command"
        )
    if not known:
        tables = [_SHARED, *(name.replace(" ", ".") for name in commands)]
        raise UsageError(
            f"{path!r} has the table [{shown}], which is not a command; expected [{_SHARED}] or "
            f"a command's name{did_you_mean(shown, tables)}"
        )
    fields = [
        (name, each)
        for name in (commands if table == _SHARED else [table])
        for each in commands[name].values()
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
