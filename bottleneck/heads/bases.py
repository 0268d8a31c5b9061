"""The bases that computed the features of a head, or others."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from bottleneck.errors import UsageError, WeightsError
from bottleneck.heads.head import Head
from bottleneck.records import FeatureSource, known_source

if TYPE_CHECKING:
    from bottleneck.bases.frozen import FrozenBase

__all__ = ["HasParts", "bases_of", "load_base", "load_bases", "load_bases_of"]

_OF_A_BASE = ("model", "weights", "adjustments", "precision")
"""Facts that layers of one base have in common."""


class HasParts(Protocol):
    """Features: one layer or several joined, or all that several heads need."""

    @property
    def parts(self) -> Sequence[FeatureSource]:
        """The layers."""


def load_base(
    head: Head,
    *,
    weights: str | None = None,
    device: str = "auto",
    max_pixels: int | None = None,
) -> "FrozenBase":
    """Load the base that computed a head's features.

    Parameters
    ----------
    head : Head
        The fitted head.
    weights : str, optional
        Current name or path of the weights, if they have moved.
    device : str
        Device to compute on, as for `FrozenBase`.
    max_pixels : int, optional
        Pixels of the largest image that is decoded, if not as for the features.

    Returns
    -------
    FrozenBase
        The base up to the head's layer, or to the deepest of its layers.

    Raises
    ------
    DataError
        The head does not record its base.
    UsageError
        The head was fitted on imported features, or on features of several bases.
    WeightsError
        The base is not the one that the head was fitted on.
    """
    source = known_source(head.source)
    if (number := len(bases_of(source))) > 1:
        raise UsageError(
            f"the head was fitted on features of {number} bases ({source}); "
            f"load them with bottleneck.load_bases"
        )
    (base,) = load_bases(head, weights=weights, device=device, max_pixels=max_pixels)
    return base


def load_bases(
    head: Head,
    *,
    weights: str | None = None,
    device: str = "auto",
    max_pixels: int | None = None,
) -> "list[FrozenBase]":
    """Load the bases that computed a head's features, several if these are joined.

    Parameters
    ----------
    head, weights, device, max_pixels : Head, str, str, int
        As for `load_base`.

    Returns
    -------
    list of FrozenBase
        In the order of the columns; each computes its layers in one pass.

    Raises
    ------
    DataError, UsageError, WeightsError
        As for `load_base`; `weights` are given for a head on several bases.
    """
    where: dict[str, Any] = {"weights": weights, "device": device, "max_pixels": max_pixels}
    return load_bases_of(known_source(head.source), **where)


def load_bases_of(
    source: HasParts,
    *,
    weights: str | None = None,
    device: str = "auto",
    max_pixels: int | None = None,
) -> "list[FrozenBase]":
    """Load the bases that computed features, which need not be those of a head.

    Parameters
    ----------
    source : FeatureSource, JoinedSource or another object with `parts`
        The features.
    weights, device, max_pixels : str, str, int
        As for `load_base`.

    Returns
    -------
    list of FrozenBase
        As from `load_bases`.

    Raises
    ------
    UsageError, WeightsError
        As for `load_bases`.
    """
    from bottleneck.bases.frozen import FrozenBase

    found = []
    groups = bases_of(source)
    if weights and len(groups) > 1:
        raise UsageError(
            f"`weights` are those of one base, but the features are of {len(groups)}; restore "
            f"{' and '.join(parts[0].weights for parts in groups)}, and "
            f"leave `weights` out"
        )
    for parts in groups:
        first, layers = parts[0], list(dict.fromkeys(part.layer for part in parts))
        if first.is_imported:
            raise UsageError(
                f"these are imported features of {first.model!r}, whose network is unknown, so "
                f"that there are none of an image that is not in the cache; extract features with "
                f"bottleneck, and use those"
            )
        changed = {} if max_pixels is None else {"max_pixels": max_pixels}
        base = FrozenBase(
            first.model,
            layers,
            weights=weights or first.weights,
            pool=next((part.stored_pool for part in parts if not part.is_vector), "none"),
            precision=first.precision,
            device=device,
            **first.adjustments | changed,
        )
        if any(base.fingerprint(part.layer, part.dtype) != part.fingerprint for part in parts):
            raise WeightsError(
                f"{first.model} with weights {base.weights_name!r} is not the base that computed "
                f"these features; expected the weights that were called {first.weights!r} then: "
                f"give them with `weights`, or run 'bottleneck extract' again, and 'bottleneck "
                f"fit-head' for a head on them"
            )
        found.append(base)
    return found


def bases_of(source: HasParts) -> list[list[FeatureSource]]:
    """Return the layers of features, grouped by the base that computes them.

    Parameters
    ----------
    source : FeatureSource or JoinedSource
        The features.

    Returns
    -------
    list of list of FeatureSource
    """
    found: list[list[FeatureSource]] = []
    for part in source.parts:
        for group in found:
            shared = all(getattr(part, name) == getattr(group[0], name) for name in _OF_A_BASE)
            pools = {each.stored_pool for each in (part, *group) if not each.is_vector}
            if shared and len(pools) < 2:  # noqa: PLR2004 - a base has one pooling
                group.append(part)
                break
        else:
            found.append([part])
    return found
