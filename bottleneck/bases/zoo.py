"""All models by name, from the libraries and from other packages.

The libraries' models are listed in ``models.json``, so that listing them imports no library;
CONTRIBUTING says how that file is made.
"""

import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import EntryPoint, distributions, entry_points
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter

from bottleneck.bases.archived import archived_model, is_archived, located, read_archived
from bottleneck.bases.finetuned import finetuned_model, is_finetuned, read_finetuned
from bottleneck.bases.libraries import TEXTBOOK_NAMES, from_torchvision
from bottleneck.bases.models import Model, PretrainedWeights, Transform
from bottleneck.bases.sources import find_source
from bottleneck.bases.timm_models import from_timm
from bottleneck.errors import (
    BottleneckError,
    PluginError,
    UnknownNameError,
    WeightsError,
    did_you_mean,
    reworded,
)

__all__ = ["TABLE", "ModelRow", "find_model", "list_models", "model_names", "timm_release"]

_PLUGIN_GROUP = "bottleneck.bases"
"""The entry-point group of packages with models, see `Model`."""

TABLE = Path(__file__).with_name("models.json")
"""The table of the libraries' models, and the model names of one version of timm."""


@dataclass(frozen=True)
class ModelRow:
    """A row of the table of models.

    Attributes
    ----------
    name : str
        Name that users give.
    library : str
        The source library.
    parameters : int or None
        Number of parameters.
    image_size : (int, int)
        Height and width of its input in pixels.
    weights : tuple of str
        Names of its weights, the default first.
    default_layer : str
        The layer that is extracted by default.
    top1 : float or None
        Published ImageNet accuracy of the default weights, in percent.
    """

    name: str
    library: str
    parameters: int | None
    image_size: tuple[int, int]
    weights: tuple[str, ...]
    default_layer: str
    top1: float | None

    @classmethod
    def of(cls, model: Model) -> Self:
        """Build the row of a model.

        Parameters
        ----------
        model : Model
            A model from `find_model`.

        Returns
        -------
        ModelRow
        """
        default = next(iter(model.weights.values()), None)
        return cls(
            name=model.name,
            library=model.library,
            parameters=model.parameters,
            image_size=model.transform.crop,
            weights=tuple(model.weights),
            default_layer=model.default_layer,
            top1=default.top1 if default else None,
        )


def list_models() -> tuple[list[ModelRow], list[BottleneckError]]:
    """Return the table of all models except those of `bottleneck.bases.sources.SOURCES`.

    Only packages that provide models are imported.

    Returns
    -------
    rows : list of ModelRow
        Sorted by name.
    errors : list of BottleneckError
        The errors of models that are missing from the table.
    """
    built_in, brought = _built_in(), {each.name for each in _plugins()}
    rows, errors = [], []
    for name in model_names():
        try:
            rows.append(built_in[name] if name not in brought else ModelRow.of(find_model(name)))
        except BottleneckError as error:
            errors.append(error)
    return rows, errors


def model_names() -> tuple[str, ...]:
    """Return the names of all models except those of `bottleneck.bases.sources.SOURCES`.

    Returns
    -------
    tuple of str
        Sorted.
    """
    return tuple(sorted({*_built_in(), *(each.name for each in _plugins())}))


def find_model(name: str) -> Model:
    """Return a model by its name.

    Parameters
    ----------
    name : str
        One of `model_names`, or a name with the prefix of one of
        `bottleneck.bases.sources.SOURCES`, or the folder of a fine-tuned model, or of an
        exported head with its base.

    Returns
    -------
    Model
        The network's builder, the weights and their preprocessing; nothing is loaded yet.

    Raises
    ------
    UnknownNameError
        The model does not exist.
    PluginError
        The package that provides the model is broken, or several packages provide that name.
    WeightsError
        The folder of a fine-tuned model is damaged.
    """
    if plugins := [each for each in _plugins() if each.name == name]:
        return _from_plugins(name, plugins)
    if name in TEXTBOOK_NAMES:
        return from_timm(TEXTBOOK_NAMES[name], name)
    if name in _built_in():
        return from_torchvision(name)
    if is_finetuned(name):
        record = read_finetuned(name)
        if is_finetuned(record.base) and record.base not in _built_in():
            raise WeightsError(
                f"the fine-tuned model in {name!r} is based on {record.base!r}, which is itself "
                f"fine-tuned; give one that is based on a pretrained model"
            )
        return finetuned_model(name, record, find_model(located(name, record.base)))
    if is_archived(name):
        exported = read_archived(name)
        return archived_model(name, exported, find_model(located(name, exported.base)))
    if os.path.isdir(name):  # noqa: PTH112 - of any text
        raise UnknownNameError(
            f"no model {name!r}: this folder has no model.json, which 'bottleneck finetune' "
            f"writes{_hint(name)}"
        )
    if source := find_source(name):
        return source.find(name.partition(":")[2], name)
    known = (*model_names(), *(f"timm:{other}" for other in timm_release()[1]))
    raise UnknownNameError(
        f"no model {name!r}; 'bottleneck models' lists them all{did_you_mean(name, known)}"
    )


def _hint(folder: str) -> str:
    """Return how to give a folder with a model of a library."""
    if os.path.isfile(os.path.join(folder, "open_clip_config.json")):  # noqa: PTH113, PTH118
        return f"; give OpenCLIP's as open_clip:local-dir:{folder}"
    if os.path.isfile(os.path.join(folder, "config.json")):  # noqa: PTH113, PTH118
        return f"; give timm's as local-dir:{folder}, and one of Transformers as hf:{folder}"
    return ""


def timm_release() -> tuple[str, list[str]]:
    """Return the version of timm that the table describes, and the names of all its models.

    Returns
    -------
    version : str
        timm's version.
    names : list of str
        Its models, without ``timm:``.
    """
    timm = _table()["timm"]
    return timm["version"], timm["names"]


@cache
def _table() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return found


@cache
def _built_in() -> dict[str, ModelRow]:
    """Return the rows of the table by model name."""
    rows = TypeAdapter(list[ModelRow]).validate_python(_table()["models"])
    return {row.name: row for row in rows}


def _plugins() -> tuple[EntryPoint, ...]:
    """Return the entry points of models, without those of packages whose metadata are damaged."""
    return _plugins_in(tuple((folder, _changed(folder)) for folder in sys.path))


def _changed(folder: str) -> int | None:
    """Return when a package was last installed in a folder or removed from it."""
    with suppress(OSError, ValueError):  # it may be missing, or no path
        return os.stat(folder or ".").st_mtime_ns  # noqa: PTH116 - of any text
    return None


@lru_cache(maxsize=2)
def _plugins_in(_: tuple[tuple[str, int | None], ...]) -> tuple[EntryPoint, ...]:
    """Read the metadata of all packages, which takes 50 ms for 200 of them."""
    try:
        return tuple(entry_points(group=_PLUGIN_GROUP))
    except Exception:  # noqa: BLE001 - whatever the reader of metadata raises
        found: list[EntryPoint] = []
        for package in distributions():
            with suppress(Exception):
                found += package.entry_points.select(group=_PLUGIN_GROUP)
        return tuple(found)


def _from_plugins(name: str, plugins: list[EntryPoint]) -> Model:
    packages = ["torchvision or timm"] if name in _built_in() else []
    packages += list(map(_package_of, plugins))
    if len(packages) > 1:
        raise PluginError(
            f"model {name!r} is provided by {' and by '.join(packages)}; uninstall all but one"
        )
    expected = "expected a callable without arguments that returns a bottleneck.bases.Model"
    remedy = f"update or uninstall {packages[0]}"
    its = f"model {name!r} of {packages[0]}"

    def failed(error: Exception) -> PluginError:
        kind = type(error).__name__
        return PluginError(f"{its} cannot be loaded ({kind}: {error}); {expected}: {remedy}")

    try:
        with reworded(failed):  # whatever another package's code raises
            model: Any = plugins[0].load()()
    except SystemExit as error:
        raise failed(error) from error  # type: ignore[arg-type]
    given = _what_is_wrong(model)
    if given or model.name != name:
        given = given or f"a model {model.name!r}"
        raise PluginError(f"{its} is {given}; {expected} of that name: {remedy}")
    return model  # type: ignore[no-any-return]


def _package_of(plugin: EntryPoint) -> str:
    with suppress(Exception):  # its metadata may be damaged
        return str(plugin.dist.name)  # type: ignore[union-attr]
    return "a package"


def _what_is_wrong(found: object) -> str:
    """Return a phrase on the part of a model that has a wrong type, ``""`` if there is none."""
    if not isinstance(found, Model):
        return type(found).__name__
    kinds = {"name": str, "architecture": str, "transform": Transform, "default_layer": str}
    parts = [(key, getattr(found, key), kind) for key, kind in kinds.items()]
    parts += [(key, value, PretrainedWeights) for key, value in found.weights.items()]
    wrong = [(key, value) for key, value, kind in parts if not isinstance(value, kind)]
    return ", ".join(f"a model with {type(value).__name__} as {key}" for key, value in wrong)
