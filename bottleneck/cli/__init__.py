"""The command line: parse, call the library, print. No other module imports it."""

import inspect
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING
from functools import cache, wraps
from types import FrameType
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

import bottleneck

# These modules add their commands.
from bottleneck.cli import (  # noqa: F401
    features,
    fitted,
    heads,
    labels,
    look,
    other,
    page,
    search,
    ship,
    shipped,
    store,
    verdicts,
    web,
)
from bottleneck.cli.command import COMMANDS, Command, in_order
from bottleneck.cli.options import completer
from bottleneck.cli.output import end_with, stop
from bottleneck.cli.streams import open_streams
from bottleneck.errors import first_line, is_out_of_memory
from bottleneck.fields import Declared, expected

__all__ = ["app", "main"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_CACHE_HELP = "Inspect and maintain the feature cache."
_GENERAL = "General"
_NO = "no_"
_JSON = "--json"
_CONFIG_HELP = "File with settings; by default bottleneck.toml, if it exists."
_METAVARS = {
    "whole number": "INTEGER",
    "number": "NUMBER",
    "path": "PATH",
    "a file": "FILE",
    "true or false": "",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit with 2 for invalid usage and 1 for failed work, without a traceback.

    SIGINT and SIGTERM end it with 130 and 143, after pending writes are done; outside the main
    thread, signals are left alone. If whoever reads its output stops, it ends with 141.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Raises
    ------
    SystemExit
        The command has failed, or was stopped by a signal; its code is the exit status.
    """
    # Pillow's remarks on damaged files, whose images are used or listed as bad.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    # Letters that matplotlib's fonts lack are drawn as boxes.
    warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
    with open_streams():
        _run(sys.argv[1:] if arguments is None else list(arguments))


def _run(given: list[str]) -> None:
    """Run a command, and tell errors of the system in one sentence."""
    as_json = _JSON in given
    try:
        with _signals_end_it():
            _parse(given, as_json=as_json)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        sentence = (
            f"not enough memory ({first_line(error)}); free some, or give a smaller --memory or "
            f"--image-size, fewer --jobs, or a --pool that makes fewer features"
        )
    except ModuleNotFoundError as error:
        module = (error.name or __name__).partition(".")[0]
        if module == __name__.partition(".")[0]:
            raise
        sentence = (
            f"{module} is not installed, which all but 'serve --onnx' may need; install this "
            f"package with its dependencies"
        )
    except OSError as error:
        place = f"{error.filename!r} cannot be used" if error.filename else "the system refused"
        sentence = f"{place} ({error.strerror or error}); check the path and its permissions"
    else:
        return
    end_with(sentence, 1, as_json=as_json)


def _parse(arguments: list[str], *, as_json: bool) -> None:
    """Run a command; with ``--json``, options that are refused are told in JSON, too."""
    if not as_json:
        _built()(arguments)
        return
    try:
        code = _built()(arguments, standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):  # of click, which some versions of Typer include
            raise
        end_with(error.format_message(), error.exit_code, as_json=True)  # type: ignore[attr-defined]
    sys.exit(code if type(code) is int else 0)


@cache
def _built() -> Any:
    """Return the application as it parses; building it for each call takes some 70 ms."""
    return typer.main.get_command(app)


@contextmanager
def _signals_end_it() -> Iterator[None]:
    """Turn the first signal into an orderly exit, and ignore later ones.

    Python discards an exception that a handler raises while an object is being removed; then the
    next report of progress ends the command, or the command ends by itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        stop.number = number
        stop.check()

    stop.number = None
    taken = [each for each in _SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
    before = {each: signal.signal(each, end) for each in taken}
    try:
        yield
        stop.check()
    finally:
        if stop.number is None:
            for each, handler in before.items():
                signal.signal(each, handler)


def _application() -> typer.Typer:
    """Return the application with all commands."""
    app = typer.Typer(
        cls=_Group,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Run a frozen pretrained network over your images once, keep its activations, then "
        "train and compare classifier heads in seconds.",
    )
    app.callback()(_main)
    cache = typer.Typer(cls=_Group, no_args_is_help=True, rich_markup_mode="rich", help=_CACHE_HELP)
    app.add_typer(cache, name="cache", rich_help_panel="Features")
    for command in in_order():
        group, _, name = command.name.rpartition(" ")
        paragraphs = inspect.cleandoc(command.function.__doc__ or "").split("\n\n")
        (cache if group else app).command(
            name,
            cls=_Command,
            help="\n\n".join(each.replace("\n", " ") for each in paragraphs),
            rich_help_panel=None if group else command.panel,
        )(_typed(command))
    return app


class _Command(TyperCommand):
    """A command whose help shows no types of flags, and lists options without a group last."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _plain(super().get_params(ctx), _GENERAL)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [each for each in self.get_params(ctx) if each.param_type_name == "argument"]
        return [str(self.options_metavar), *(str(each.metavar) for each in arguments)]


class _Group(TyperGroup):
    """A group whose help shows no types of flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _plain(super().get_params(ctx), "Options")


def _plain(parameters: list[Any], panel: str) -> list[Any]:
    """Remove the types that Typer shows without choices, ``<bool>`` and ``<str>``; add panels."""
    for each in parameters:
        if each.param_type_name == "argument":
            each.display_type_rich = lambda **_: ""
        else:
            each.metavar = "" if each.is_flag else each.metavar
            each.rich_help_panel = getattr(each, "rich_help_panel", None) or panel
    return parameters


def _print_version(given: bool) -> None:
    if given:
        print(bottleneck.__version__)
        raise typer.Exit


_VERSION = typer.Option(
    "--version", help="Print the version.", callback=_print_version, is_eager=True
)


def _main(*, version: Annotated[bool, _VERSION] = False) -> None:
    pass


def _typed(command: Command) -> Callable[..., Any]:
    """Return a function of texts and flags, as Typer needs it."""

    @wraps(command.function)
    def run(**options: Any) -> Any:
        given: dict[str, Any] = {}
        for key, value in options.items():
            name = key.removeprefix(_NO)
            if value in (None, [], ()):
                continue
            if name in given:
                flags = command.values[name]
                raise typer.BadParameter(f"{flags.flag} and {flags.opposite} exclude each other")
            given[name] = value if name == key else False
        return command.run(given, given.pop("config", None))

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
    option = typer.Option("--config", metavar="FILE", help=_CONFIG_HELP, show_default=False)
    yield _parameter("config", str, option)


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
    if len(value.choices) > 1:
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


app = _application()
