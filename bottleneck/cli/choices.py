"""What a command takes where nothing is named, and the line that says so."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bottleneck.cli.options import ExperimentSettings
from bottleneck.cli.streams import note
from bottleneck.errors import DataError, UnknownNameError, UsageError
from bottleneck.fields import given_in

if TYPE_CHECKING:
    from bottleneck.cache import Cache
    from bottleneck.heads import Head
    from bottleneck.records import AnySource, FeatureSource
    from bottleneck.settings import (
        FeatureSettings,
        FinetuneSettings,
        FitFeatures,
        FitSettings,
        LayerSettings,
    )

__all__ = [
    "choose_features",
    "choose_head",
    "choose_heads",
    "choose_joined",
    "choose_layer",
    "choose_several",
    "choose_start",
]


def choose_head(
    folder: Path, name: str | None, other: str = "--head takes another"
) -> "tuple[Path, Head]":
    """Load a head by name or path; without a name the newest, which is noted if there are others.

    Parameters
    ----------
    folder : Path
        Folder of the heads.
    name : str or None
        Name or path, if given.
    other : str
        How another is taken.

    Returns
    -------
    (Path, Head)
        The head's folder, and the head.

    Raises
    ------
    DataError, UnknownNameError
        See `bottleneck.heads.find_head`.
    """
    from bottleneck.heads import find_head, head_names

    place, head = find_head(folder, name)
    others = len(head_names(folder)) - 1
    if name is None and others:
        note(f"note: {place.name} is the newest of {others + 1} heads; {other}")
    return place, head


def choose_heads(
    folder: Path, names: Sequence[str], other: str = "--head takes others"
) -> "dict[str, tuple[Path, Head]]":
    """Load several heads, as `choose_head` does; without names the newest.

    Parameters
    ----------
    folder : Path
        Folder of the heads.
    names : sequence of str
        Names or paths.
    other : str
        How others are taken.

    Returns
    -------
    dict of str to (Path, Head)
        By the name of its folder, each head's folder, and the head.

    Raises
    ------
    UsageError
        Two have one name.
    DataError, UnknownNameError
        See `bottleneck.heads.find_head`.
    """
    found: dict[str, tuple[Path, Head]] = {}
    for name in names or (None,):
        place, head = choose_head(folder, name, other)
        if place.name in found:
            raise UsageError(f"two heads have the name {place.name!r}; give each once")
        found[place.name] = place, head
    return found


def choose_layer(cache: "Cache", settings: "FeatureSettings") -> "FeatureSource":
    """Select a layer; if none of several is named the deepest, which is noted.

    Parameters
    ----------
    cache : Cache
        The cache.
    settings : FeatureSettings
        What the extraction must match.

    Returns
    -------
    FeatureSource

    Raises
    ------
    DataError, UnknownNameError, UsageError
        See `bottleneck.select_features`.
    """
    from bottleneck.features import matching_layers

    *others, deepest = matching_layers(cache, settings)
    if others:
        names = ", ".join(each.layer_name for each in others)
        note(
            f"note: {deepest.layer_name} is the deepest of {len(others) + 1} layers; --layer takes "
            f"another ({names})"
        )
    return deepest


def choose_joined(cache: "Cache", settings: "FitFeatures") -> "AnySource":
    """Select features of one layer, or of several that are joined.

    Parameters
    ----------
    cache : Cache
        The cache.
    settings : FitFeatures
        What the extractions must match.

    Returns
    -------
    FeatureSource or JoinedSource

    Raises
    ------
    DataError, UnknownNameError, UsageError
        See `bottleneck.select_layers`; or several layers are named that are not to be joined.
    """
    from bottleneck.features import select_layers
    from bottleneck.settings import FeatureSettings

    if settings.join:
        return select_layers(cache, settings)[-1]
    one: dict[str, str | None] = {}
    for name in ("layers", "models", "pools"):
        given = getattr(settings, name)
        if len(given) > 1:
            raise UsageError(
                f"`{name}` is given {len(given)} times ({', '.join(given)}), but features are of "
                f"one; give one, or give `join` to take all of them side by side"
            )
        one[name.removesuffix("s")] = next(iter(given), None)
    shared = {name: getattr(settings, name) for name in ("image_set", "views", "augment")}
    return choose_layer(cache, FeatureSettings(**one, **shared))  # type: ignore[arg-type]


def choose_several(cache: "Cache", settings: "LayerSettings") -> "list[AnySource]":
    """Select layers, of one or several bases.

    Parameters
    ----------
    cache : Cache
        The cache.
    settings : LayerSettings
        What the extractions must match.

    Returns
    -------
    list of FeatureSource or JoinedSource

    Raises
    ------
    DataError, UnknownNameError, UsageError
        See `bottleneck.select_layers`; or a base does not exist at all.
    """
    from bottleneck.features import select_layers

    try:
        return select_layers(cache, settings)
    except UnknownNameError:
        known = {"all", *(run.model for run in cache.runs(damaged_too=False))}
        for name in settings.models:
            if name not in known and ":" not in name:
                from bottleneck.bases import find_model

                find_model(name)
        raise


def choose_start(settings: "FinetuneSettings", head: "Head", cache: "Cache") -> "FinetuneSettings":
    """Return settings with the layer that the last verdict names, which is noted, if none is given.

    Parameters
    ----------
    settings : FinetuneSettings
        As given.
    head : Head
        The head at the start.
    cache : Cache
        The cache of its features.

    Returns
    -------
    FinetuneSettings

    Raises
    ------
    UsageError
        No verdict on the head's features names a layer.
    """
    if settings.unfreeze is not None:
        return settings
    from bottleneck.advise import layer_to_train
    from bottleneck.records import single_source

    layer = layer_to_train(cache, single_source(head.source))
    note(f"note: training begins at {layer}, as the last verdict says; --unfreeze takes another")
    return replace(settings, unfreeze=layer)


def choose_features(
    cache: "Cache",
    asked: ExperimentSettings,
    chosen: "FitFeatures",
    settings: "FitSettings",
) -> "tuple[AnySource, FitSettings, Callable[[Head], Head]]":
    """Return the features to fit on and the classifier: of an experiment, if one is asked for.

    Parameters
    ----------
    cache : Cache
        The cache.
    asked : ExperimentSettings
        The number of an experiment; or that the best is wanted, or none.
    chosen, settings : FitFeatures, FitSettings
        What is fitted; values that an experiment must have, where they are given.

    Returns
    -------
    (FeatureSource or JoinedSource, FitSettings, callable)
        The last one adds to a fitted head's scores that an experiment was selected.

    Raises
    ------
    UsageError, UnknownNameError
        There is no such experiment, or it has other values.
    DataError
        There is no log, or the images have changed since.
    """
    if not asked.best and asked.experiment is None:
        return choose_joined(cache, chosen), settings, lambda head: head
    from bottleneck.experiments import ExperimentLog
    from bottleneck.rerun import (
        best_experiment,
        differing,
        features_and_settings,
        is_current,
        selection_facts,
        with_selection,
    )

    log = ExperimentLog(asked.log)
    if asked.experiment is None:
        found, best = best_experiment(cache, log.experiments(), chosen, settings)
    else:
        found = log.experiment(asked.experiment)
        if name := differing(found, cache, chosen, settings):
            raise UsageError(f"experiment {found.number} has another `{name}`; leave `{name}` out")
        if not is_current(found, cache):
            raise DataError(
                f"the image set of experiment {found.number} has changed or is not in the cache; "
                f"run 'bottleneck sweep' again, or name another cache with `cache`"
            )
        best = selection_facts(
            found, [each for each in log.experiments() if is_current(each, cache)]
        )
    source, own = features_and_settings(found)
    if "device" in given_in(settings):  # no experiment depends on it
        own = replace(own, device=settings.device)
    text = f"{best['metric']} {best['mean']:.4f}"
    if best["among"] > 1 and asked.experiment is None:
        text += f", too good as the best of {best['among']}"
    elif best["among"] > 1:
        text += f", too good if it was selected among {best['among']}"
    if best["unselected"]:
        text += f"; {best['unselected'][best['metric']]:.4f} on images that nothing was selected on"
    note(f"experiment {found.number}: {own.clf} on {source} ({text})")
    return source, own, partial(with_selection, number=found.number, facts=best)
