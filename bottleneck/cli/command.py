"""Build commands from functions: the fields of their settings become options."""

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

import bottleneck
from bottleneck.cli.config import Config, Configured, read_config
from bottleneck.cli.options import completer
from bottleneck.errors import BottleneckError, UsageError
from bottleneck.fields import Declared, check, declared, expected

if TYPE_CHECKING:
    pass

__all__ = ["COMMANDS", "Command", "add_command", "application", "in_order"]

PANELS = ("Features", "Heads", "Judge", "Fine-tune", "Ship", "Other")

_F = TypeVar("_F", bound=Callable[..., Any])
_GROUP_HELP = {"cache": "Inspect and maintain the feature cache."}
_GENERAL = "General"
_NO = "no_"
_CONFIG_HELP = "File with settings; by default bottleneck.toml, if it exists."
_METAVARS = {"whole number": "INTEGER", "number": "NUMBER", "path": "PATH", "true or false": ""}


@dataclass(frozen=True)
class Command:
    """A function whose parameters are settings, or single values declared like fields of settings.

    A parameter of the type `Config` gets the file of settings.

    Attributes
    ----------
    name : str
        Name as typed, such as ``cache verify``.
    function : callable
        The function to call.
    panel : str
        Title of its group in the help.
    """

    name: str
    function: Callable[..., Any]
    panel: str

    @cached_property
    def parameters(self) -> dict[str, type | Declared]:
        """The function's parameters: settings, or single values."""
        hints = get_type_hints(self.function, include_extras=True)
        found: dict[str, type | Declared] = {}
        for name, each in inspect.signature(self.function).parameters.items():
            default = MISSING if each.default is each.empty else each.default
            whole = hints[name] is Config or hasattr(hints[name], "__group__")
            found[name] = hints[name] if whole else Declared(name, hints[name], default)
        return found

    @cached_property
    def values(self) -> dict[str, Declared]:
        """All values by name; a value in several settings appears once."""
        found: dict[str, Declared] = {}
        for each in self.parameters.values():
            if each is Config:
                continue
            for value in [each] if isinstance(each, Declared) else declared(each):
                if not value.option.hidden:
                    found.setdefault(value.name, value)
        return found

    def run(self, typed: Mapping[str, Any], file: str | None = None) -> Any:
        """Call the function; an error is printed and ends the process with 2 or 1.

        Parameters
        ----------
        typed : mapping of str to Any
            Values by name. They take precedence over the file, which takes precedence over
            defaults.
        file : str, optional
            The file of settings; by default ``bottleneck.toml``, if it exists.
        """
        config = Config()
        try:
            config = read_config(file, {name: each.values for name, each in COMMANDS.items()})
            return self.function(**self._arguments(typed, config))
        except BottleneckError as error:
            own = {name: it for name, it in config.values[self.name].items() if name not in typed}
            print(f"error: {self._told(str(error), own, config.file)}", file=sys.stderr)
            sys.exit(2 if isinstance(error, UsageError) else 1)

    def _arguments(self, typed: Mapping[str, Any], config: Config) -> dict[str, Any]:
        given = {name: each.value for name, each in config.values[self.name].items()} | dict(typed)
        found: dict[str, Any] = {}
        for name, each in self.parameters.items():
            if each is Config:
                found[name] = config
            elif not isinstance(each, Declared):
                names = {value.name for value in declared(each)}
                found[name] = each(**{key: given[key] for key in names & given.keys()})
            elif name in given or each.default is MISSING:
                found[name] = check(given.get(name, MISSING), each)
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


def add_command(name: str, panel: str) -> Callable[[_F], _F]:
    """Register a function as a command; ``cache verify`` belongs to the group ``cache``.

    Parameters
    ----------
    name, panel : str
        Name of the command as typed, and its group in the help.

    Returns
    -------
    callable
    """

    def add(function: _F) -> _F:
        COMMANDS[name] = Command(name, function, panel)
        return function

    return add


def in_order() -> list[Command]:
    """Return all commands in the order of their panels."""
    return sorted(COMMANDS.values(), key=lambda each: PANELS.index(each.panel))


def application() -> typer.Typer:
    """Return the application with all commands."""
    app = typer.Typer(
        cls=_Group,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Run a frozen pretrained network over your images once, keep its activations, then "
        "train and compare classifier heads in seconds.",
    )
    app.callback()(_main)
    groups = {"": app}
    for command in in_order():
        group, _, name = command.name.rpartition(" ")
        if group not in groups:
            groups[group] = typer.Typer(cls=_Group, no_args_is_help=True, help=_GROUP_HELP[group])
            app.add_typer(groups[group], name=group, rich_help_panel=command.panel)
        paragraphs = inspect.cleandoc(command.function.__doc__ or "").split("\n\n")
        groups[group].command(
            name,
            cls=_Command,
            help="\n\n".join(each.replace("\n", " ") for each in paragraphs),
            rich_help_panel=None if group else command.panel,
        )(_typed(command))
    return app


class _Command(TyperCommand):
    """A command whose help shows no types of flags, and lists options without a group last."""

    def get_params(self, ctx: Any) -> list[Any]:
        found = _plain(super().get_params(ctx))
        for each in found:
            if each.param_type_name == "option":
                each.rich_help_panel = getattr(each, "rich_help_panel", None) or _GENERAL
        return found

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [each for each in self.get_params(ctx) if each.param_type_name == "argument"]
        return [str(self.options_metavar), *(str(each.metavar) for each in arguments)]


class _Group(TyperGroup):
    """A group whose help shows no types of flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _plain(super().get_params(ctx))


def _plain(parameters: list[Any]) -> list[Any]:
    """Remove the types that Typer shows without choices: ``<bool>``, ``<str>``."""
    for each in parameters:
        if each.param_type_name == "argument":
            each.display_type_rich = lambda **_: ""
        elif each.is_flag:
            each.metavar = ""
    return parameters


def _version(asked: bool) -> None:
    if asked:
        print(bottleneck.__version__)
        raise typer.Exit


def _main(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _typed(command: Command) -> Callable[..., Any]:
    """Return a function of texts and flags, as Typer needs it."""

    @wraps(command.function)
    def run(**options: Any) -> Any:
        typed = {key: value for key, value in options.items() if value not in (None, [], ())}
        file = typed.pop("config", None)
        off = {key.removeprefix(_NO): False for key in typed if key.startswith(_NO)}
        given = {key: value for key, value in typed.items() if not key.startswith(_NO)}
        for each in (command.values[name] for name in off if name in given):
            raise typer.BadParameter(f"{each.flag} and {each.opposite} exclude each other")
        return command.run(given | off, file)

    signature = inspect.Signature(list(_parameters(command)))
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in signature.parameters.values()}
    return run


def _parameters(command: Command) -> Iterator[inspect.Parameter]:
    """Yield the parameters that Typer turns into options; all are texts or flags."""
    for value in sorted(command.values.values(), key=lambda each: each.default is not MISSING):
        shared: dict[str, Any] = {
            "help": _help(value, command),
            "show_default": False,
            "metavar": _metavar(value),
            "autocompletion": completer(value, COMMANDS),
        }
        panel = value.group or _GENERAL
        if value.option.argument:
            yield _parameter(value.name, _kind(value), typer.Argument(**shared))
            continue
        option = typer.Option(value.flag, rich_help_panel=panel, **shared)
        yield _parameter(value.name, _kind(value), option)
        if _kind(value) is bool:
            shared = {"help": f"The opposite of {value.flag}.", "rich_help_panel": panel}
            hidden = value.opposite not in (value.option.name or "")
            option = typer.Option(value.opposite, hidden=hidden, **shared)
            yield _parameter(f"{_NO}{value.name}", bool, option)
    yield _parameter("config", str, typer.Option("--config", metavar="FILE", help=_CONFIG_HELP))


def _parameter(name: str, kind: Any, option: Any) -> inspect.Parameter:
    annotation, keyword = Annotated[kind | None, option], inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=None, annotation=annotation)


def _kind(value: Declared) -> Any:
    """Return the type for Typer: a flag, a text, or several texts."""
    kinds = (value.type, *get_args(value.type))
    if value.takes_several:
        return list[str]
    if bool in kinds:
        return bool
    return tuple[str, str] if any(get_origin(each) is tuple for each in kinds) else str


def _help(value: Declared, command: Command) -> str:
    flags = {each.name: each.flag for each in command.values.values()}
    text = re.sub(r"`(\w+)`", lambda found: flags.get(found[1], found[1]), value.doc)
    if value.choices and value.choices != ("auto",):
        text = f"{text} One of {', '.join(value.choices)}."
    if value.default is MISSING:
        return rf"{text} \[required]"
    default = value.default_text
    return rf"{text} \[default: {default}]" if default else text


def _metavar(value: Declared) -> str:
    """Return the placeholder of a value in the help, nothing for a flag."""
    if value.option.argument:
        name = value.name.upper() + "..." * value.takes_several
        return name if value.default is MISSING else f"[{name}]"
    words = expected(value.annotation)
    kind = next((short for long, short in _METAVARS.items() if long in words), "TEXT")
    return value.option.metavar or (f"auto|{kind}" if words.startswith("auto or") else kind)
