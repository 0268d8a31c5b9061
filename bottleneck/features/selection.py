"""Select features: one layer of one image set in the cache, with one pooling."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from bottleneck.arguments import checked, find_layers, made
from bottleneck.cache import Cache
from bottleneck.cache.shards import unfinished
from bottleneck.errors import (
    DataError,
    UnknownNameError,
    UsageError,
    WrongTypeError,
    counted,
    did_you_mean,
    some_of,
)
from bottleneck.features.commands import remedy_for
from bottleneck.features.models import with_models
from bottleneck.images import ImageSet
from bottleneck.pooling import POOLS, check_pool
from bottleneck.pooling import pool as pool_rows
from bottleneck.records import AnySource, Extraction, FeatureSource, JoinedSource
from bottleneck.settings import FeatureSettings, LayerSettings, SweepFeatures

__all__ = [
    "check_finite",
    "check_layers",
    "join_layers",
    "matching_layers",
    "select_features",
    "select_layers",
    "vectors",
]


def check_layers(selections: Sequence[AnySource]) -> None:
    """Check that layers are as `select_layers` returns them.

    Parameters
    ----------
    selections : sequence of FeatureSource or JoinedSource
        The layers.

    Raises
    ------
    WrongTypeError
        One of them is something else.
    """
    if not all(isinstance(each, FeatureSource | JoinedSource) for each in selections):
        raise WrongTypeError(
            f"`selections` must be the result of bottleneck.select_layers, got {selections}"
        )


@checked
def vectors(source: FeatureSource, rows: np.ndarray) -> np.ndarray:
    """Turn rows as stored in a bank into feature vectors.

    Parameters
    ----------
    source : FeatureSource
        The layer and pooling of the rows.
    rows : np.ndarray
        Shape (n, ...).

    Returns
    -------
    np.ndarray
        float32 of shape (n, d).

    Raises
    ------
    DataError
        Some are not finite.
    """
    values = check_finite(source, rows).astype(np.float32)
    if source.pool != source.stored_pool:
        values = pool_rows(values, source.pool, source.axes)
    return values.reshape(len(values), -1)


def check_finite(source: FeatureSource, rows: np.ndarray) -> np.ndarray:
    """Return rows unchanged if all are finite.

    Parameters
    ----------
    source : FeatureSource
        The layer of the rows.
    rows : np.ndarray
        Shape (n, ...).

    Returns
    -------
    np.ndarray

    Raises
    ------
    DataError
        Some are not finite.
    """
    if not np.isfinite(rows).all():
        imported = " --imported" * source.is_imported
        raise DataError(
            f"the features of {source.layer_name!r} in bank {source.bank} contain nan or inf, "
            f"which bottleneck never stores; remove them with 'bottleneck cache prune --layer "
            f"{source.layer_name}{imported}' and run {source.made_by!r} again"
        )
    return rows


@checked
def select_features(
    cache: Cache | str | Path, settings: FeatureSettings | None = None, **options: Any
) -> FeatureSource:
    """Select a layer of the cache's last extraction, or of the last one that matches.

    If it has several and none is named, the deepest is selected.

    Parameters
    ----------
    cache : Cache, str or Path
        The cache, or its folder.
    settings : FeatureSettings, optional
        What the extraction must match, and the pooling of the features; by default as stored. A
        layer may have the name used at extraction or its current name.
    **options
        The fields of `bottleneck.settings.FeatureSettings`, in place of `settings`.

    Returns
    -------
    FeatureSource

    Raises
    ------
    DataError
        The cache has no extraction, or the image set has changed since.
    UnknownNameError
        No extraction matches.
    UsageError
        The layer does not support the pooling.
    """
    return matching_layers(cache, settings, **options)[-1]


@checked
def select_layers(
    cache: Cache | str | Path, settings: LayerSettings | None = None, **options: Any
) -> list[AnySource]:
    """Select several layers, each with several poolings; and these layers joined.

    Parameters
    ----------
    cache : Cache, str or Path
        The cache, or its folder.
    settings : LayerSettings, optional
        As for `select_features`; all layers of the last matching extraction if none is named. Of
        several models, each layer is taken from all that have it. `SweepFeatures` also selects
        views.
    **options
        The fields of `bottleneck.settings.SweepFeatures`, in place of `settings`.

    Returns
    -------
    list of FeatureSource or JoinedSource
        Each combination of layer and pooling once; with `join`, all of them side by side are the
        last.

    Raises
    ------
    DataError, UnknownNameError, UsageError
        As for `select_features`; or as for `join_layers`.
    """
    if settings is None:
        settings, options = SweepFeatures(**options), {}
    settings = made(LayerSettings, settings, options)
    cache, found = Cache(cache), list[FeatureSource]()
    settings = with_models(cache, settings)
    for layer in settings.layers or [None]:
        own = _of_models(cache, layer, settings)
        # One that is named twice is a mistake where layers are joined.
        found += own if settings.join else [each for each in own if each not in found]
    if lacking := [each for each in settings.models if each not in {own.model for own in found}]:
        raise UnknownNameError(
            f"no extraction by {lacking[0]!r} has {' or '.join(map(repr, settings.layers))}; name "
            f"a layer of it with `layers`, or leave it out of `models`"
        )
    if len(sets := {selection.image_set for selection in found}) > 1:
        raise UsageError(
            f"the last extractions of these layers come from several image sets: "
            f"{', '.join(sorted(sets))}; choose one with `image_set`"
        )
    return [*found, join_layers(found)] if settings.join else [*found]


def _of_models(cache: Cache, layer: str | None, settings: LayerSettings) -> list[FeatureSource]:
    """Return a layer of each model that has it, or all layers, with each pooling once."""
    names = ("image_set", "views", "augment")
    shared: dict[str, Any] = {name: getattr(settings, name, None) for name in names}
    found: list[FeatureSource] = []
    unknown = []
    for model, pool in product(settings.models or [None], settings.pools or [None]):
        asked = FeatureSettings(model=model, layer=layer, pool=pool, **shared)
        try:
            each = matching_layers(cache, asked)
        except UnknownNameError as error:
            unknown.append(error)
        else:
            found += [selection for selection in each if selection not in found]
    if unknown and (not found or len(settings.models) <= 1 or layer is None):
        raise unknown[0]
    return found


def join_layers(layers: Sequence[FeatureSource]) -> JoinedSource:
    """Join layers, of one base or several: their columns are side by side, in this order.

    Rows are joined by the digest of the image, and by view.

    Parameters
    ----------
    layers : sequence of FeatureSource
        Two or more layers of one image set: results of `select_features`, for `load_features`.

    Returns
    -------
    JoinedSource

    Raises
    ------
    UsageError
        There are fewer than two, two are the same, or they have other images or views.
    WrongTypeError
        One is no layer.
    """
    check_layers(layers)
    return JoinedSource(parts=tuple(part for each in layers for part in each.parts))


@checked
def matching_layers(
    cache: Cache | str | Path, settings: FeatureSettings | None = None, **options: Any
) -> list[FeatureSource]:
    """Return all layers of the last matching extraction, with the pooling asked for.

    Parameters
    ----------
    cache, settings, **options
        As for `select_features`.

    Returns
    -------
    list of FeatureSource
        At least one, in the order of computation: the deepest is the last.

    Raises
    ------
    DataError, UnknownNameError, UsageError
        As for `select_features`.
    """
    cache, asked = Cache(cache), made(FeatureSettings, settings, options)
    runs = cache.runs()
    if not runs:
        raise DataError(
            f"no extraction in the cache folder {str(cache.root)!r}; run 'bottleneck extract' "
            f"first, or name another folder with `cache`{unfinished(cache)}"
        )
    for run in reversed(runs):
        if chosen := _matching(run, asked):
            digest = run.image_set_digest
            break
    else:
        raise UnknownNameError(f"{_no_match(runs, asked)}{unfinished(cache)}")
    images = ImageSet.read_csv(cache.set_file(chosen[0].image_set))
    if images.digest_of() != digest:
        raise DataError(
            f"image set {chosen[0].image_set!r} was extracted with other images or labels since "
            f"the extraction by {chosen[0].model}; run {remedy_for(chosen[0], images, cache)!r} "
            f"again, and give different sets different names with `image_set`"
        )
    for each in chosen:
        check_pool(each.pool, each.axes, each.layer_name)
    return chosen


def _matching(run: Extraction, asked: FeatureSettings) -> list[FeatureSource]:
    """Return the layers of an extraction that match, with the pooling asked for where possible.

    A module's name means its last layer. Maps and tokens stored unpooled can be pooled; vectors are
    used unchanged.
    """
    if asked.model not in {None, run.model} or asked.image_set not in {None, run.image_set}:
        return []
    if asked.augment not in {None, run.policy} or (asked.views or 0) > run.views:
        return []
    found = run.sources
    if asked.views is not None:
        found = [each.with_views(asked.views) for each in found]
    if asked.layer is not None:
        names = {each.layer: each.aliases for each in run.layers}
        named = find_layers(asked.layer, names)
        found = [
            replace(each, typed=asked.layer)
            if asked.layer in (each.layer, *names[each.layer])
            else each  # the last layer there of a module
            for each in found
            if each.layer in named
        ]
    if asked.pool is None:
        return found
    return [
        replace(each, pool=each.stored_pool if each.axes == "C" else asked.pool)
        for each in found
        if each.stored_pool in {asked.pool, "none"}
    ]


def _no_match(runs: Sequence[Extraction], asked: FeatureSettings) -> str:
    found = [selection for run in runs for selection in run.sources]
    layers = [name for run in runs for each in run.layers for name in (each.layer, *each.aliases)]
    known = {
        ("model", asked.model): [each.model for each in found],
        ("layer", asked.layer): layers,
        ("set", asked.image_set): [each.image_set for each in found],
        ("pooling", asked.pool): list(POOLS),
        ("augmentation", asked.augment): [each.policy for each in found if each.policy],
    }
    given = [f"{what} {value!r}" for what, value in known if value]
    wanted = ", ".join([*given, counted(asked.views, "view")] if asked.views else given)
    unknown = [(value, names) for (_, value), names in known.items() if value not in {None, *names}]
    near = next(filter(None, (did_you_mean(str(value), names) for value, names in unknown)), "")
    there = some_of(sorted({f"{each} of {each.image_set!r}" for each in found}), "; ")
    return (
        f"no extraction with {wanted} in the cache; there are {there}: choose one of them, or run "
        f"'bottleneck extract'{near}"
    )
