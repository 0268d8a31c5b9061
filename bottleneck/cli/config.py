"""Settings from ``bottleneck.toml``: a table for each command, and ``[default]`` for all."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bottleneck.errors import PathMissingError, UsageError, did_you_mean
from bottleneck.fields import Declared, check

__all__ = ["Configured", "read_config"]

_FILE = "bottleneck.toml"
_SHARED = "default"


@dataclass(frozen=True)
class Configured:
    """A value from the file, and the table that holds it."""

    value: Any
    table: str


_Fields = Mapping[str, Declared]


def read_config(
    file: str | None, commands: Mapping[str, _Fields]
) -> dict[str, dict[str, Configured]]:
    """Read the values that a file gives each command, by the names of its parameters.

    Keys are the names of options. A command's own table wins over ``[default]``, whose keys count
    for the commands that have such an option.

    Parameters
    ----------
    file : str, optional
        ``bottleneck.toml`` in the working folder by default, if there is one.
    commands : mapping of str to mapping
        Of each command the values that it takes, by name; ``cache verify`` has the table
        ``[cache.verify]``.

    Raises
    ------
    PathMissingError
        There is no such file.
    UsageError
        It is not TOML, a table or key is unknown, or a value cannot be right.
    """
    found: dict[str, dict[str, Configured]] = {name: {} for name in commands}
    path = Path(file or _FILE)
    if file is None and not path.is_file():
        return found
    try:
        tables = dict(_tables(tomllib.loads(path.read_text(encoding="utf-8")), path))
    except FileNotFoundError:
        raise PathMissingError(f"no file {file!r}; give another with --config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{str(path)!r} is not TOML ({error}); mend it") from error
    for table in sorted(tables, key=_SHARED.__ne__):  # the shared table first
        if table != _SHARED and table not in commands:
            near = did_you_mean(table, [_SHARED, *commands])
            raise UsageError(
                f"{str(path)!r} has a table [{table.replace(' ', '.')}] that is no command{near}; "
                f"expected [{_SHARED}] or a command's name"
            )
        for key, value in tables[table].items():
            _take(found, commands, table, key, value, path)
    return found


def _tables(content: Mapping[str, Any], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the tables, those of ``cache`` under their commands' names."""
    for name, table in content.items():
        if not isinstance(table, dict):
            raise UsageError(
                f"{str(path)!r} has the key {name.replace(' ', '.')!r} outside of a command's "
                f"table; put it under [{_SHARED}] or the name of a command"
            )
        if name == "cache":
            yield from _tables({f"{name} {each}": own for each, own in table.items()}, path)
        else:
            yield name, table


def _take(
    found: dict[str, dict[str, Configured]],
    commands: Mapping[str, _Fields],
    table: str,
    key: str,
    value: Any,
    path: Path,
) -> None:
    """Give a value to the commands that it is for."""
    known: set[str] = set()
    taken = False
    for name in commands if table == _SHARED else [table]:
        fields = {each.key: each for each in commands[name].values()}
        known |= fields.keys()
        field = fields.get(key.replace("-", "_"))
        if field is None:
            continue
        taken = True
        if field.takes_several and not isinstance(value, list):
            value = [value]
        try:
            check(value, field)
        except UsageError as error:
            said = str(error).replace(f"`{field.name}`", field.key)
            raise UsageError(f"[{table}] in {str(path)!r}: {said}") from error
        found[name][field.name] = Configured(value, table)
    if not taken:
        raise UsageError(
            f"{str(path)!r} has an unknown key {key!r} in [{table}]{did_you_mean(key, known)}; "
            f"'bottleneck config' lists those that exist"
        )
