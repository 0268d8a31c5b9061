"""Commands from functions: each takes settings, whose fields become its options."""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass
from functools import cached_property, wraps
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

from bottleneck import __version__
from bottleneck.cli.config import read_config
from bottleneck.errors import BottleneckError
from bottleneck.fields import Declared, check, declared, expected

__all__ = [
    "COMMANDS",
    "Command",
    "add_command",
    "all_values",
    "application",
    "config_file",
    "with_options",
]

PANELS = ("Features", "Heads", "Judge", "Fine-tune", "Ship", "Other")
_GROUP_HELP = {"cache": "Look into the feature cache and keep it."}

_F = TypeVar("_F", bound=Callable[..., Any])
_NO = "no_"
_CONFIG_HELP = "File with settings; bottleneck.toml by default, where it exists."
_METAVARS = {"whole number": "INTEGER", "number": "NUMBER", "path": "PATH"}


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@dataclass(frozen=True)
class Command:
    """A function whose parameters are settings, or single values that are declared as theirs are.

    Attributes
    ----------
    name : str
        As it is typed, such as ``cache verify``.
    function : callable
        What it does.
    panel : str
        The title under which the help lists it.
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
            single = not hasattr(hints[name], "__group__")
            found[name] = Declared(name, hints[name], default) if single else hints[name]
        return found

    @cached_property
    def values(self) -> dict[str, Declared]:
        """All values that it takes, by name; one that several settings declare, once."""
        found: dict[str, Declared] = {}
        for each in self.parameters.values():
            for value in [each] if isinstance(each, Declared) else declared(each):
                if not value.option.hidden:
                    found.setdefault(value.name, value)
        return found

    def call(self, given: Mapping[str, Any]) -> Any:
        """Call the function with the settings that some values make."""
        arguments: dict[str, Any] = {}
        for name, each in self.parameters.items():
            if not isinstance(each, Declared):
                names = {value.name for value in declared(each)}
                arguments[name] = each(**{key: given[key] for key in names & given.keys()})
            elif name in given or each.default is MISSING:
                arguments[name] = check(given.get(name, MISSING), each)
        return self.function(**arguments)


COMMANDS: dict[str, Command] = {}
"""All commands by name."""

_running: list[tuple[Command, str | None]] = []
"""The running command with its file of settings, and the commands that run it."""


def add_command(name: str, panel: str) -> Callable[[_F], _F]:
    """Make a function a command; `cache verify` is one of the group ``cache``."""

    def add(function: _F) -> _F:
        COMMANDS[name] = Command(name, function, panel)
        return function

    return add


def application() -> typer.Typer:
    """Return the application with all commands, in the order of their panels."""
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Run a frozen pretrained network over your images once, keep its activations, then "
        "train and compare classifier heads in seconds.",
    )
    app.callback()(_main)
    groups = {"": app}
    for command in sorted(COMMANDS.values(), key=lambda each: PANELS.index(each.panel)):
        group, _, name = command.name.rpartition(" ")
        if group not in groups:
            groups[group] = typer.Typer(no_args_is_help=True, help=_GROUP_HELP[group])
            app.add_typer(groups[group], name=group, rich_help_panel=command.panel)
        groups[group].command(name, rich_help_panel=None if group else command.panel)(
            _typed(command)
        )
    return app


def _main(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _typed(command: Command) -> Callable[..., Any]:
    """Return a function of texts and flags, as Typer takes it.

    What is typed wins over ``bottleneck.toml``, and that over the defaults.
    """

    @wraps(command.function)
    def run(**options: Any) -> Any:
        typed = {key: value for key, value in options.items() if value not in (None, [], ())}
        file = typed.pop("config", None)
        _running.append((command, file))
        off = {key.removeprefix(_NO): False for key in typed if key.startswith(_NO)}
        given = {key: value for key, value in typed.items() if not key.startswith(_NO)}
        configured = read_config(file, all_values())[command.name]
        found = command.call({key: each.value for key, each in configured.items()} | given | off)
        _running.pop()
        return found

    signature = inspect.Signature(list(_options(command)))
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in signature.parameters.values()}
    return run


def all_values() -> dict[str, dict[str, Declared]]:
    """Return the values that each command takes, by name."""
    return {name: command.values for name, command in COMMANDS.items()}


def config_file() -> str | None:
    """Return the file of settings that the running command was given."""
    return _running[-1][1]


def with_options(text: str) -> str:
    """Return a sentence with options for the parameters that it names between backticks.

    They stand there alone, or as ``name=value``.
    """
    commands = [*COMMANDS.values(), *(command for command, _ in _running[-1:])]
    known = [each for command in commands for each in command.values.values()]
    flags = {
        name: each.name.upper() if each.option.argument else each.flag
        for each in known
        for name in (each.key, each.name)
    }
    opposites = {
        each.name: (each.option.name or "").partition("/")[2] for each in known if each.option.name
    }

    def option(found: re.Match[str]) -> str:
        name, value = found.groups()
        if value == "False" and name in opposites:
            return opposites[name]
        if name not in flags:
            return found[0].strip("`")
        return f"{flags[name]} {value}" if value and value != "True" else flags[name]

    return re.sub(r"`([A-Za-z_]+)(?:=([^`]*))?`", option, text)


def _options(command: Command) -> Iterator[inspect.Parameter]:
    """Yield the parameters from which Typer makes the options; all are texts, or flags."""
    for value in sorted(command.values.values(), key=lambda each: each.default is not MISSING):
        yield _parameter(value.name, _kind(value), _typer_option(value, command))
        if _kind(value) is bool and "/" not in (value.option.name or ""):
            negative = typer.Option(f"--no-{value.flag[2:]}", help="Take it back.", hidden=True)
            yield _parameter(f"{_NO}{value.name}", bool, negative)
    file = typer.Option("--config", metavar="FILE", help=_CONFIG_HELP, rich_help_panel="Options")
    yield _parameter("config", str, file)


def _parameter(name: str, kind: Any, option: Any) -> inspect.Parameter:
    annotation = Annotated[kind | None, option]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _kind(value: Declared) -> Any:
    """Return what Typer is to take: a flag, a text, or several of these."""
    kinds = [each for each in get_args(value.type) or (value.type,) if each is not NoneType]
    kind = value.type if get_origin(value.type) is tuple else kinds[0]
    if kind is bool:
        return bool
    if get_origin(kind) is not tuple:
        return str
    return list[str] if Ellipsis in get_args(kind) else tuple[str, str]


def _typer_option(value: Declared, command: Command) -> Any:
    shared: dict[str, Any] = {
        "help": _help(value, command),
        "show_default": False,
        "rich_help_panel": value.group or "Options",
    }
    if _kind(value) is bool:
        shared["metavar"] = ""
    else:
        shared["metavar"] = value.option.metavar or _metavar(value)
        shared["autocompletion"] = _completer(value)
    if value.option.argument:
        return typer.Argument(**shared | {"rich_help_panel": "Arguments"})
    return typer.Option(value.option.name or value.flag, **shared)


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
    words = expected(value.annotation)
    if value.option.argument:
        return value.name.upper()
    kind = next((short for long, short in _METAVARS.items() if long in words), "TEXT")
    return f"auto|{kind}" if words.startswith("auto or") else kind


def _completer(value: Declared) -> Callable[..., list[str]] | None:
    """Return what lists the values of an option that begin as the one being typed."""
    names = _NAMES.get(value.name)
    if names is None and not value.choices:
        return None

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            found = names(ctx.params) if names else value.choices
            return [name for name in found if name.startswith(incomplete)]
        except (BottleneckError, OSError):
            return []

    return complete


def _models(_: dict[str, Any]) -> Iterable[str]:
    from bottleneck.bases import model_names

    return model_names()


def _layers(typed: dict[str, Any]) -> Iterable[str]:
    """Return the layers of the base that was typed, or those in the cache."""
    if typed.get("model") and "weights" in typed:
        from bottleneck.bases import find_model
        from bottleneck.bases.network import Network

        network = Network(find_model(typed["model"]))
        return [*network.aliases, *network.layers]
    from bottleneck.cache import Cache

    runs = Cache(typed.get("cache") or "cache").runs(damaged_too=False)
    return {name for run in runs for each in run.layers for name in (each.layer, *each.aliases)}


def _heads(typed: dict[str, Any]) -> Iterable[str]:
    from bottleneck.heads import head_names

    return head_names(Path(typed.get("heads") or "heads"))


_NAMES: dict[str, Callable[[dict[str, Any]], Iterable[str]]] = {
    "model": _models,
    "layer": _layers,
    "layers": _layers,
    "head": _heads,
}
