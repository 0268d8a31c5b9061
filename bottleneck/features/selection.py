"""Which features: one layer of one image set in the cache, pooled in one way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Self

import numpy as np

from bottleneck.cache import Cache
from bottleneck.errors import DataError, UnknownNameError, UsageError, did_you_mean
from bottleneck.files import slug
from bottleneck.images import ImageSet
from bottleneck.pooling import POOLS, check_pool
from bottleneck.pooling import pool as pool_rows

__all__ = ["Selection", "select_features", "select_layers"]


@dataclass(frozen=True)
class Selection:
    """One layer of one image set in the cache.

    Attributes
    ----------
    image_set, model, weights, precision, dtype, layer, bank, fingerprint : str
        As the run's record names them; `layer` is torchvision's name.
    weights_random : bool
        The weights were never trained.
    adjustments : dict
        How the preprocessing differs from that of the weights: arguments of `FrozenBase`.
    alias : str or None
        Keras' name of the layer.
    stored_pool, axes : str
        How the rows in the bank are pooled, and what their axes are.
    pool : str
        How the features are pooled: `stored_pool`, or another where rows are stored unpooled.
    """

    image_set: str
    model: str
    weights: str
    weights_random: bool
    precision: str
    dtype: str
    adjustments: dict[str, Any]
    layer: str
    alias: str | None
    bank: str
    fingerprint: str
    stored_pool: str
    axes: str
    pool: str

    @classmethod
    def of_head(cls, source: Mapping[str, Any]) -> Self:
        """Return the selection that a head was fitted on, from its `source`.

        Raises
        ------
        DataError
            The head does not say it.
        """
        if not source:
            raise DataError(
                "the head does not say which features it belongs to; fit it with the source that "
                "features.provenance gives"
            )
        return cls(**{key: source[key] for key in cls.__dataclass_fields__})

    @property
    def layer_name(self) -> str:
        """The layer's alias if it has one, else its own name."""
        return self.alias or self.layer

    @property
    def slug(self) -> str:
        """Model, layer, pooling and changes to the preprocessing as part of a file's name."""
        return slug("-".join([self.model, self.layer_name, *self._particulars]))

    def __str__(self) -> str:
        """Name model and layer, and what is particular about them."""
        particulars = f" ({', '.join(self._particulars)})" if self._particulars else ""
        return f"{self.model} {self.layer_name}{particulars}"

    @property
    def _particulars(self) -> list[str]:
        size = self.adjustments.get("image_size")
        squash = self.adjustments.get("squash")
        return [
            *([] if size is None else ["x".join(map(str, size))]),
            *([] if squash is None else ["squash" if squash else "crop"]),
            *(key for key in ("keep_aspect", "reduced_decode") if self.adjustments.get(key)),
            *filter(None, [self.adjustments.get("interpolation")]),
            *([] if self.pool == "none" else [self.pool]),
        ]

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Turn rows as the bank stores them into features, float32 of shape (n, d)."""
        values = rows.astype(np.float32)
        if self.pool != self.stored_pool:
            values = pool_rows(values, self.pool, self.axes)
        return values.reshape(len(values), -1)


def select_features(
    cache: Cache,
    *,
    model: str | None = None,
    layer: str | None = None,
    image_set: str | None = None,
    pool: str | None = None,
) -> Selection:
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
    chosen = _last_matching(cache, model, layer, image_set, pool)
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
) -> list[Selection]:
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

    Raises
    ------
    DataError, UnknownNameError, UsageError
        As for `select_features`.
    """
    found: list[Selection] = []
    for layer, pool in product(layers or [""], pools or [""]):
        each = _last_matching(cache, model, layer or None, image_set, pool or None)
        found += [selection for selection in each if selection not in found]
    if len(sets := {selection.image_set for selection in found}) > 1:
        raise UsageError(
            f"the last extractions of these layers are of several image sets: "
            f"{', '.join(sorted(sets))}; choose one with --set"
        )
    return found


def _last_matching(
    cache: Cache, model: str | None, layer: str | None, image_set: str | None, pool: str | None
) -> list[Selection]:
    """Return the layers of the last extraction that matches, pooled as asked for."""
    if pool is not None:
        check_pool(pool, "C", "")  # a vector takes any that there is
    runs = cache.runs()
    if not runs:
        raise DataError(
            f"no extraction in the cache folder {str(cache.root)!r}; run 'bottleneck extract' "
            f"first, or name another folder with --cache"
        )
    for run in reversed(runs):
        if chosen := _pooled(_matching(run, model, layer, image_set), pool):
            digest = run["image_set_digest"]
            break
    else:
        raise UnknownNameError(_no_match(runs, model, layer, image_set, pool))
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


def _selections(run: dict[str, Any]) -> list[Selection]:
    kept = ("image_set", "model", "weights", "weights_random", "precision", "dtype")
    shared = {key: run[key] for key in (*kept, "adjustments")}
    return [
        Selection(
            **shared,
            **{key: layer[key] for key in ("layer", "alias", "bank", "fingerprint", "axes")},
            stored_pool=layer["pool"],
            pool=layer["pool"],
        )
        for layer in run["layers"]
    ]


def _matching(
    run: dict[str, Any], model: str | None, layer: str | None, image_set: str | None
) -> list[Selection]:
    """Return what a run has to offer; a module's name stands for the last layer in it."""
    if model not in {None, run["model"]} or image_set not in {None, run["image_set"]}:
        return []
    found = _selections(run)
    if layer is None:
        return found
    exact = [
        each
        for each, details in zip(found, run["layers"], strict=True)
        if layer in {each.layer, *details["aliases"]}
    ]
    return exact or [each for each in found if each.layer.startswith(f"{layer}.")][-1:]


def _pooled(selections: Sequence[Selection], pool: str | None) -> list[Selection]:
    """Return those that are pooled so, or can be: what is stored unpooled, and vectors."""
    if pool is None:
        return list(selections)
    return [
        replace(each, pool=each.stored_pool if each.axes == "C" else pool)
        for each in selections
        if each.stored_pool in {pool, "none"}
    ]


def _no_match(
    runs: Sequence[dict[str, Any]],
    model: str | None,
    layer: str | None,
    image_set: str | None,
    pool: str | None,
) -> str:
    found = [selection for run in runs for selection in _selections(run)]
    asked = {"model": model, "layer": layer, "set": image_set, "pooling": pool}
    known = {
        "model": {selection.model for selection in found},
        "layer": {
            name
            for run in runs
            for each in run["layers"]
            for name in (each["layer"], *each["aliases"])
        },
        "set": {selection.image_set for selection in found},
        "pooling": set(POOLS),
    }
    wanted = ", ".join(f"{key} {value!r}" for key, value in asked.items() if value)
    hints = [
        did_you_mean(value, known[key])
        for key, value in asked.items()
        if value and value not in known[key]
    ]
    there = sorted({f"{each} of {each.image_set!r}" for each in found})
    return (
        f"no extraction with {wanted} in the cache{next(filter(None, hints), '')}; there are "
        f"{'; '.join(there)}: choose one of them, or run 'bottleneck extract'"
    )
