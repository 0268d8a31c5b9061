"""All models by name: those of the libraries, and those that other packages bring."""

from importlib.metadata import EntryPoint, entry_points

from bottleneck.bases.libraries import (
    TEXTBOOK_NAMES,
    from_timm,
    from_torchvision,
    timm_names,
    torchvision_names,
)
from bottleneck.bases.models import Model
from bottleneck.errors import BottleneckError, PluginError, UnknownNameError, did_you_mean

__all__ = ["PLUGIN_GROUP", "find_model", "model_names"]

PLUGIN_GROUP = "bottleneck.bases"
"""The entry-point group of packages that bring models, see `Model`."""

_TIMM = "timm:"


def model_names() -> tuple[str, ...]:
    """Return the names of all models but timm's, which are ``timm:NAME``."""
    return tuple(sorted({*_built_in(), *(plugin.name for plugin in _plugins())}))


def find_model(name: str) -> Model:
    """Return the model of a name.

    Parameters
    ----------
    name : str
        One of `model_names`, or ``timm:NAME``.

    Raises
    ------
    UnknownNameError
        There is no such model.
    PluginError
        The package that brings the model is broken, or another one brings a model of that name.
    """
    plugins = [plugin for plugin in _plugins() if plugin.name == name]
    if plugins:
        return _from_plugins(name, plugins)
    if name.startswith(_TIMM):
        return from_timm(name.removeprefix(_TIMM), name)
    if name in TEXTBOOK_NAMES:
        return from_timm(TEXTBOOK_NAMES[name], name)
    if name not in torchvision_names():
        known = (*model_names(), *(f"{_TIMM}{other}" for other in timm_names()))
        raise UnknownNameError(
            f"no model {name!r}{did_you_mean(name, known)}; 'bottleneck models' lists them all"
        )
    return from_torchvision(name)


def _built_in() -> set[str]:
    return {*torchvision_names(), *TEXTBOOK_NAMES}


def _plugins() -> list[EntryPoint]:
    """Return the entry points of other packages' models, once each."""
    found = {
        (plugin.name, plugin.value, _package(plugin)): plugin
        for plugin in entry_points(group=PLUGIN_GROUP)
    }
    return list(found.values())


def _package(plugin: EntryPoint) -> str:
    return plugin.dist.name if plugin.dist else "a package"


def _from_plugins(name: str, plugins: list[EntryPoint]) -> Model:
    packages = [*(["torchvision or timm"] if name in _built_in() else []), *map(_package, plugins)]
    if len(packages) > 1:
        raise PluginError(
            f"model {name!r} is brought by {' and by '.join(packages)}; uninstall all but one"
        )
    expected = "expected a callable without arguments that returns a bottleneck.bases.Model"
    remedy = f"update or uninstall {packages[0]}"
    try:
        model = plugins[0].load()()
    except BottleneckError:
        raise
    except Exception as error:  # whatever another package's code raises
        raise PluginError(
            f"model {name!r} of {packages[0]} cannot be loaded ({type(error).__name__}: {error}); "
            f"{expected}: {remedy}"
        ) from error
    if not isinstance(model, Model) or model.name != name:
        given = f"a model {model.name!r}" if isinstance(model, Model) else type(model).__name__
        raise PluginError(
            f"model {name!r} of {packages[0]} is {given}; {expected} of that name: {remedy}"
        )
    return model
