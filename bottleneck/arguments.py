"""Check and resolve the arguments of functions: settings, types, and names of layers."""

import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from fnmatch import filter as matching
from functools import wraps
from inspect import formatannotation, signature
from typing import Any, ParamSpec, TypeVar

from bottleneck.errors import UsageError, WrongTypeError

__all__ = ["checked", "find_layers", "listed", "made", "modules_of"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def made(kind: type[_T], given: "_T | None", options: Mapping[str, Any]) -> _T:
    """Return settings given as an object or as keyword arguments.

    Parameters
    ----------
    kind : type
        The class of the settings.
    given : object, optional
        The settings.
    options : mapping of str to Any
        Values of fields, if `given` is None.

    Returns
    -------
    object
        Settings of that class.

    Raises
    ------
    UsageError
        Both are given, or a value is invalid.
    WrongTypeError
        `given` is of another class.
    """
    if given is None:
        return kind(**options)
    if not isinstance(given, kind):
        raise _wrong_type("the settings", [kind.__name__], given)
    if options:
        raise UsageError(
            f"`{next(iter(options))}` was given together with {type(given).__name__}; give it as a "
            f"field of {type(given).__name__}"
        )
    return given


def checked(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Decorate a function to check the type of its first argument.

    Types are compared by name, so that types annotated as strings need not be imported.

    Parameters
    ----------
    function : callable
        A function whose first argument, after `self` or `cls`, is annotated.

    Returns
    -------
    callable
        A function with the same signature.

    Raises
    ------
    WrongTypeError
        Raised by the function, if its first argument has another type.
    """
    own = signature(function)
    name = next(each for each in own.parameters if each not in {"self", "cls"})
    words = re.findall(r"[\w.]+", formatannotation(own.parameters[name].annotation))
    kinds = [word.rpartition(".")[2] for word in words]

    @wraps(function)
    def call(*positional: _P.args, **named: _P.kwargs) -> _T:
        value = own.bind(*positional, **named).arguments[name]
        found = {"None" if value is None else each.__name__ for each in type(value).__mro__}
        if found.isdisjoint(kinds):
            raise _wrong_type(f"`{name}`", kinds, value)
        return function(*positional, **named)

    return call


def listed(words: Iterable[Any]) -> str:
    """Return words as in ``avg, max or gem``.

    Parameters
    ----------
    words : iterable
        At least one.

    Returns
    -------
    str
    """
    *others, last = map(str, words)
    return f"{', '.join(others)} or {last}" if others else last


def _wrong_type(what: str, kinds: Iterable[str], given: object) -> WrongTypeError:
    got = f"{reprlib.repr(given)} ({type(given).__name__})"
    return WrongTypeError(f"{what} must be {listed(kinds)}, got {got}")


def find_layers(
    name: str, layers: Mapping[str, Iterable[str]], *, patterns: bool = False, whole: bool = False
) -> dict[str, str]:
    """Return the layers with a name, in order, and the name of each to show; none if unknown.

    Parameters
    ----------
    name : str
        A layer, an alias, which takes precedence over another layer's own name, or a module, which
        means its last layer (``layer4`` for ``layer4.2.relu_2``); or a range of the aliases
        ``block.N``, as a slice in Python: ``block.-4:`` for the last four.
    layers : mapping of str to iterable of str
        Layers in order, with their aliases.
    patterns : bool
        Whether the name may be a pattern, such as ``block*_pool``.
    whole : bool
        Whether a module means all layers in it.

    Returns
    -------
    dict of str to str
        The layers' own names, and the given name of each; for a pattern, the alias, layer or module
        that matches it.
    """
    if found := _blocks_in_range(name, layers):
        return found
    known = {layer: [layer] for layer in layers}
    known |= {alias: [layer] for layer, aliases in layers.items() for alias in aliases}
    modules = {
        module: inside if whole else inside[-1:] for module, inside in modules_of(layers).items()
    }
    for among in (known, modules):
        names = matching(among, name) if patterns else among.keys() & {name}
        found = {layer: each for each in names for layer in among[each]}  # aliases come last
        if found:
            return {layer: found[layer] for layer in layers if layer in found}
    return {}


def _blocks_in_range(name: str, layers: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Return the layers with the aliases ``block.N`` of a range, and the alias of each."""
    given = re.fullmatch(r"block\.(-?\d{1,4})?:(-?\d{1,4})?", name)
    if not given:
        return {}
    start, stop = (int(each) if each else None for each in given.groups())
    found = {}
    for layer, aliases in layers.items():
        own = sorted(int(each[6:]) for each in aliases if re.fullmatch(r"block\.-?\d+", each))
        if not own:
            continue
        reached = start is None or own[-1 if start >= 0 else 0] >= start
        if reached and (stop is None or own[-1 if stop >= 0 else 0] < stop):
            found[layer] = f"block.{own[-1]}"
    return found


def modules_of(layers: Iterable[str]) -> dict[str, list[str]]:
    """Return the modules that layers are in, with the layers in each.

    Parameters
    ----------
    layers : iterable of str
        Names with dots, in the order of computation.

    Returns
    -------
    dict of str to list of str
    """
    found: dict[str, list[str]] = {}
    for layer in layers:
        parts = layer.split(".")
        for depth in range(1, len(parts)):
            module = ".".join(parts[:depth])
            found.setdefault(module, []).append(layer)
    return found
