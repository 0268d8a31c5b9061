"""Which features: one layer of one image set in the cache, pooled in one way."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from bottleneck.cache import Cache
from bottleneck.errors import DataError, UnknownNameError, UsageError, did_you_mean, some_of
from bottleneck.fields import checked, made
from bottleneck.images import ImageSet
from bottleneck.names import find_layers
from bottleneck.pooling import POOLS, check_pool
from bottleneck.pooling import pool as pool_rows
from bottleneck.records import Extraction, FeatureSource
from bottleneck.settings import FeatureSettings, LayerSettings, SweepFeatures

__all__ = ["select_features", "select_layers", "vectors"]


@checked
def vectors(source: FeatureSource, rows: np.ndarray) -> np.ndarray:
    """Turn rows as the bank stores them into features.

    Parameters
    ----------
    source : FeatureSource
        Which features they are.
    rows : np.ndarray
        Shape (n, ...).

    Returns
    -------
    np.ndarray
        float32 of shape (n, d).
    """
    values = rows.astype(np.float32)
    if source.pool != source.stored_pool:
        values = pool_rows(values, source.pool, source.axes)
    return values.reshape(len(values), -1)


@checked
def select_features(
    cache: Cache | str | Path, settings: FeatureSettings | None = None, **options: Any
) -> FeatureSource:
    """Choose a layer from the cache's last extraction, or from the last one that matches.

    Parameters
    ----------
    cache : Cache, str or Path
        Where to look.
    settings : FeatureSettings, optional
        What the extraction must be of, and how the features are to be pooled: as they are stored by
        default. A layer is named as it was at extraction or as it is there.
    **options
        The fields of `bottleneck.settings.FeatureSettings`, instead.

    Returns
    -------
    FeatureSource

    Raises
    ------
    DataError
        The cache has no extraction, or the image set is another one since.
    UnknownNameError
        No extraction matches.
    UsageError
        The last matching extraction has several layers and none was chosen, or the layer cannot be
        pooled so.
    """
    chosen = _last_matching(Cache(cache), made(FeatureSettings, settings, options))
    if len(chosen) > 1:
        names = ", ".join(found.layer_name for found in chosen)
        raise UsageError(
            f"the last extraction of {chosen[0].image_set!r} by {chosen[0].model} has "
            f"{len(chosen)} layers: {names}; choose one with `layer`"
        )
    return chosen[0]


@checked
def select_layers(
    cache: Cache | str | Path, settings: LayerSettings | None = None, **options: Any
) -> list[FeatureSource]:
    """Choose several layers, each in several poolings.

    Parameters
    ----------
    cache : Cache, str or Path
        Where to look.
    settings : LayerSettings, optional
        As for `select_features`; all layers of the last extraction that matches, if none is named.
        `SweepFeatures` chooses views as well.
    **options
        The fields of `bottleneck.settings.SweepFeatures`, instead.

    Returns
    -------
    list of FeatureSource
        By layer and pooling, each once.

    Raises
    ------
    DataError, UnknownNameError, UsageError
        As for `select_features`.
    """
    if settings is None:
        settings, options = SweepFeatures(**options), {}
    settings = made(LayerSettings, settings, options)
    names = ("model", "image_set", "views", "augment")
    shared: dict[str, Any] = {name: getattr(settings, name, None) for name in names}
    found: list[FeatureSource] = []
    for layer, pool in product(settings.layers or [None], settings.pools or [None]):
        each = _last_matching(Cache(cache), FeatureSettings(layer=layer, pool=pool, **shared))
        found += [selection for selection in each if selection not in found]
    if len(sets := {selection.image_set for selection in found}) > 1:
        raise UsageError(
            f"the last extractions of these layers are of several image sets: "
            f"{', '.join(sorted(sets))}; choose one with `image_set`"
        )
    return found


def _last_matching(cache: Cache, asked: FeatureSettings) -> list[FeatureSource]:
    """Return the layers of the last extraction that matches, pooled as asked for."""
    runs = cache.runs()
    if not runs:
        raise DataError(
            f"no extraction in the cache folder {str(cache.root)!r}; run 'bottleneck extract' "
            f"first, or name another folder with `cache`"
        )
    for run in reversed(runs):
        if chosen := _matching(run, asked):
            digest = run.image_set_digest
            break
    else:
        raise UnknownNameError(_no_match(runs, asked))
    images = ImageSet.read_csv(cache.set_file(chosen[0].image_set))
    if images.digest_of() != digest:
        raise DataError(
            f"image set {chosen[0].image_set!r} has been extracted from other images or labels "
            f"since {chosen[0].model} saw it; extract it again, and tell sets of one name apart "
            f"with `image_set`"
        )
    for each in chosen:
        check_pool(each.pool, each.axes, each.layer_name)
    return chosen


def _matching(run: Extraction, asked: FeatureSettings) -> list[FeatureSource]:
    """Return what a run has to offer, pooled as asked for where it can be.

    A module's name stands for the last layer in it. What is stored unpooled can be pooled, and
    vectors are as they are.
    """
    if asked.model not in {None, run.model} or asked.image_set not in {None, run.image_set}:
        return []
    if asked.augment not in {None, run.policy} or (asked.views or 0) > run.views:
        return []
    found = run.sources
    if asked.views is not None:
        found = [each.with_views(asked.views) for each in found]
    if asked.layer is not None:
        named = find_layers(asked.layer, {each.layer: each.aliases for each in run.layers})
        found = [each for each in found if each.layer in named]
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
    wanted = ", ".join([*given, f"{asked.views} views"] if asked.views else given)
    unknown = [(value, names) for (_, value), names in known.items() if value not in {None, *names}]
    near = next(filter(None, (did_you_mean(str(value), names) for value, names in unknown)), "")
    there = some_of(sorted({f"{each} of {each.image_set!r}" for each in found}), "; ")
    return (
        f"no extraction with {wanted} in the cache; there are {there}: choose one of them, or run "
        f"'bottleneck extract'{near}"
    )
