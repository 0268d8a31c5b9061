"""Which features: one layer of one image set in the cache, pooled in one way."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from bottleneck.cache import Cache
from bottleneck.errors import DataError, UnknownNameError, UsageError, did_you_mean
from bottleneck.images import ImageSet
from bottleneck.names import find_layers
from bottleneck.pooling import POOLS, check_pool
from bottleneck.pooling import pool as pool_rows
from bottleneck.records import Extraction, FeatureSource

__all__ = ["select_features", "select_layers", "vectors"]


def vectors(source: FeatureSource, rows: np.ndarray) -> np.ndarray:
    """Turn rows as the bank stores them into features, float32 of shape (n, d)."""
    values = rows.astype(np.float32)
    if source.pool != source.stored_pool:
        values = pool_rows(values, source.pool, source.axes)
    return values.reshape(len(values), -1)


def select_features(
    cache: Cache,
    *,
    model: str | None = None,
    layer: str | None = None,
    image_set: str | None = None,
    pool: str | None = None,
    views: int | None = None,
    policy: str | None = None,
) -> FeatureSource:
    """Choose a layer from the cache's last extraction, or from the last one that matches.

    Parameters
    ----------
    cache : Cache
        Where to look.
    model, layer, image_set : str, optional
        What the extraction must be of; a layer is named as it was at extraction or as it is there.
    pool : str, optional
        How the features are to be pooled: as they are stored, or from stored maps or tokens. As
        they are stored, if not given.
    views : int, optional
        How many augmented views of each training image are wanted; those of the extraction by
        default, and 0 leaves them out.
    policy : str, optional
        The name of the policy that must have made them.

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
    chosen = _last_matching(cache, _Asked(model, layer, image_set, pool, views, policy))
    if len(chosen) > 1:
        names = ", ".join(found.layer_name for found in chosen)
        raise UsageError(
            f"the last extraction of {chosen[0].image_set!r} by {chosen[0].model} has "
            f"{len(chosen)} layers: {names}; choose one with --layer"
        )
    return chosen[0]


def select_layers(
    cache: Cache,
    *,
    model: str | None = None,
    layers: Sequence[str] = (),
    image_set: str | None = None,
    pools: Sequence[str] = (),
    views: int | None = None,
    policy: str | None = None,
) -> list[FeatureSource]:
    """Choose several layers, each in several poolings.

    Parameters
    ----------
    cache : Cache
        Where to look.
    model, image_set : str, optional
        As for `select_features`.
    layers : sequence of str
        As its `layer`; all of the last extraction that matches, if empty.
    pools : sequence of str
        As its `pool`.
    views, policy : int, str, optional
        As for `select_features`.

    Raises
    ------
    DataError, UnknownNameError, UsageError
        As for `select_features`.
    """
    found: list[FeatureSource] = []
    for layer, pool in product(layers or [""], pools or [""]):
        asked = _Asked(model, layer or None, image_set, pool or None, views, policy)
        each = _last_matching(cache, asked)
        found += [selection for selection in each if selection not in found]
    if len(sets := {selection.image_set for selection in found}) > 1:
        raise UsageError(
            f"the last extractions of these layers are of several image sets: "
            f"{', '.join(sorted(sets))}; choose one with --set"
        )
    return found


@dataclass(frozen=True)
class _Asked:
    """What is asked for."""

    model: str | None
    layer: str | None
    image_set: str | None
    pool: str | None
    views: int | None
    policy: str | None


def _last_matching(cache: Cache, asked: _Asked) -> list[FeatureSource]:
    """Return the layers of the last extraction that matches, pooled as asked for."""
    if asked.pool is not None:
        check_pool(asked.pool, "C", "")  # a vector takes any that there is
    if asked.policy is not None and asked.views == 0:
        raise UsageError(
            f"no views of {asked.policy!r} cannot be; give another --views, or no --augment"
        )
    runs = cache.runs()
    if not runs:
        raise DataError(
            f"no extraction in the cache folder {str(cache.root)!r}; run 'bottleneck extract' "
            f"first, or name another folder with --cache"
        )
    for run in reversed(runs):
        if chosen := _pooled(_matching(run, asked), asked.pool):
            digest = run.image_set_digest
            break
    else:
        raise UnknownNameError(_no_match(runs, asked))
    images = ImageSet.read_csv(cache.set_file(chosen[0].image_set))
    if images.digest_of() != digest:
        raise DataError(
            f"image set {chosen[0].image_set!r} has been extracted from other images or labels "
            f"since {chosen[0].model} saw it; extract it again, and tell sets of one name apart "
            f"with --set"
        )
    for each in chosen:
        check_pool(each.pool, each.axes, each.layer_name)
    return chosen


def _matching(run: Extraction, asked: _Asked) -> list[FeatureSource]:
    """Return what a run has to offer; a module's name stands for the last layer in it."""
    if asked.model not in {None, run.model} or asked.image_set not in {None, run.image_set}:
        return []
    if asked.policy not in {None, run.policy} or (asked.views or 0) > run.views:
        return []
    found = run.sources
    if asked.views is not None:
        found = [each.with_views(asked.views) for each in found]
    if asked.layer is None:
        return found
    named = find_layers(asked.layer, {each.layer: each.aliases for each in run.layers})
    return [each for each in found if each.layer in named]


def _pooled(selections: Sequence[FeatureSource], pool: str | None) -> list[FeatureSource]:
    """Return those that are pooled so, or can be: what is stored unpooled, and vectors."""
    if pool is None:
        return list(selections)
    return [
        replace(each, pool=each.stored_pool if each.axes == "C" else pool)
        for each in selections
        if each.stored_pool in {pool, "none"}
    ]


def _no_match(runs: Sequence[Extraction], asked: _Asked) -> str:
    found = [selection for run in runs for selection in run.sources]
    given = {
        "model": asked.model,
        "layer": asked.layer,
        "set": asked.image_set,
        "pooling": asked.pool,
        "augmentation": asked.policy,
    }
    known = {
        "model": {selection.model for selection in found},
        "layer": {
            name for run in runs for each in run.layers for name in (each.layer, *each.aliases)
        },
        "set": {selection.image_set for selection in found},
        "pooling": set(POOLS),
        "augmentation": {selection.policy for selection in found if selection.policy},
    }
    wanted = ", ".join(f"{key} {value!r}" for key, value in given.items() if value)
    if asked.views:
        wanted = ", ".join(filter(None, [wanted, f"{asked.views} views"]))
    hints = [
        did_you_mean(value, known[key])
        for key, value in given.items()
        if value and value not in known[key]
    ]
    there = sorted({f"{each} of {each.image_set!r}" for each in found})
    return (
        f"no extraction with {wanted} in the cache{next(filter(None, hints), '')}; there are "
        f"{'; '.join(there)}: choose one of them, or run 'bottleneck extract'"
    )
