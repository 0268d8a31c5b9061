"""Which features: one layer of one image set in the cache, pooled in one way."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Self

import numpy as np

from bottleneck.cache import Bank, Cache
from bottleneck.errors import DataError, UnknownNameError, UsageError, did_you_mean
from bottleneck.files import slug
from bottleneck.images import ImageSet
from bottleneck.pooling import POOLS, check_pool
from bottleneck.pooling import pool as pool_rows

__all__ = ["Selection", "select_features", "select_layers"]

_OF_VIEWS = ("views", "policy", "view_bank", "view_fingerprint")


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
    views : int
        How many augmented views of each training image belong to it, beside the plain one.
    policy, view_bank, view_fingerprint : str or None
        How they were made, and where they are; None where there are none.
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
    views: int = 0
    policy: str | None = None
    view_bank: str | None = None
    view_fingerprint: str | None = None

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
        optional = {key for key in _OF_VIEWS if key not in source}
        return cls(**{key: source[key] for key in cls.__dataclass_fields__ if key not in optional})

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it; what is of views only where there are any."""
        left_out = () if self.views else _OF_VIEWS
        return {key: value for key, value in asdict(self).items() if key not in left_out}

    def banks(self, cache: Cache) -> tuple[Bank, ...]:
        """Return the bank of the plain images, and that of their views where there are any."""
        plain = cache.bank(self.model, self.fingerprint)
        return (plain, cache.named(self.view_bank)) if self.view_bank else (plain,)

    def with_views(self, views: int) -> Self:
        """Return it with the first so many views, or with none."""
        if views:
            return replace(self, views=views)
        return replace(self, views=0, policy=None, view_bank=None, view_fingerprint=None)

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
            *([f"{self.views} views {self.policy}"] if self.views else []),
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
    views: int | None = None,
    policy: str | None = None,
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
    views, policy : int, str, optional
        As for `select_features`.

    Raises
    ------
    DataError, UnknownNameError, UsageError
        As for `select_features`.
    """
    found: list[Selection] = []
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


def _last_matching(cache: Cache, asked: _Asked) -> list[Selection]:
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
            digest = run["image_set_digest"]
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


def _selections(run: dict[str, Any]) -> list[Selection]:
    kept = ("image_set", "model", "weights", "weights_random", "precision", "dtype")
    shared = {key: run[key] for key in (*kept, "adjustments")}
    return [
        Selection(
            **shared,
            **{key: layer[key] for key in ("layer", "alias", "bank", "fingerprint", "axes")},
            stored_pool=layer["pool"],
            pool=layer["pool"],
            # Records of earlier versions know no views.
            views=run.get("views", 0),
            policy=run.get("policy"),
            view_bank=layer.get("view_bank"),
            view_fingerprint=layer.get("view_fingerprint"),
        )
        for layer in run["layers"]
    ]


def _matching(run: dict[str, Any], asked: _Asked) -> list[Selection]:
    """Return what a run has to offer; a module's name stands for the last layer in it."""
    if asked.model not in {None, run["model"]} or asked.image_set not in {None, run["image_set"]}:
        return []
    if asked.policy not in {None, run.get("policy")} or (asked.views or 0) > run.get("views", 0):
        return []
    found = _selections(run)
    if asked.views is not None:
        found = [each.with_views(asked.views) for each in found]
    layer = asked.layer
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


def _no_match(runs: Sequence[dict[str, Any]], asked: _Asked) -> str:
    found = [selection for run in runs for selection in _selections(run)]
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
            name
            for run in runs
            for each in run["layers"]
            for name in (each["layer"], *each["aliases"])
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
