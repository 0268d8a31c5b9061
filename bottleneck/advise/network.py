"""Where the layers of a cache stand in their network, and what fine-tuning it costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from bottleneck.bases import find_model
from bottleneck.errors import BottleneckError
from bottleneck.records import FeatureSource

if TYPE_CHECKING:
    from bottleneck.bases.layers import Layer
    from bottleneck.bases.network import Network

__all__ = ["Depths", "FineTuning"]

_BACKWARD = 3
"""What a forward and a backward pass take, in forward passes."""


@dataclass(frozen=True)
class FineTuning:
    """Where a fine-tuning begins, and its cost.

    Attributes
    ----------
    layer : str
        From which on the network would be trained.
    multiply_adds : int
        Of an epoch, for one image: the layers below once, those trained three times.
    extractions : float
        The same in multiples of what extracting the image's features takes.
    head_epochs : float
        The same in multiples of what an epoch of the head takes on cached features.
    """

    layer: str
    multiply_adds: int
    extractions: float
    head_epochs: float


class _Known(NamedTuple):
    """A network, and its layers for images of the size that was extracted."""

    network: "Network"
    layers: dict[str, "Layer"]


class Depths:
    """The networks that layers are of, as far as they are known here.

    Parameters
    ----------
    selections : sequence of FeatureSource
        The layers.
    """

    def __init__(self, selections: Sequence[FeatureSource]) -> None:
        self._known = {(each.model, each.layer): _known(each) for each in selections}

    def in_order(self, selections: Sequence[FeatureSource]) -> list[FeatureSource]:
        """Sort layers as their network computes them; leave them where it is not known."""

        def place(selection: FeatureSource) -> int:
            known = self._known[selection.model, selection.layer]
            return list(known.layers).index(selection.layer) if known else 0

        return sorted(selections, key=place)

    def shares(self, selections: Sequence[FeatureSource]) -> list[float]:
        """Return what part of the deepest layer's multiply-adds each takes.

        Where a network is not known, the layers' own order says.
        """
        names = list(dict.fromkeys(each.layer for each in selections))
        costs = [
            known.layers[each.layer].multiply_adds if known else names.index(each.layer) + 1
            for each in selections
            for known in [self._known[each.model, each.layer]]
        ]
        return [cost / max(1, *costs) for cost in costs]

    def fine_tuning(
        self, last: FeatureSource, after: FeatureSource, n_features: int, n_classes: int
    ) -> FineTuning | None:
        """Return what training all that comes after a layer costs; None of an unknown network.

        Parameters
        ----------
        last : FeatureSource
            The layer that the head is on.
        after : FeatureSource
            The last layer to stay frozen. Where it is `last`, or nothing is computed after it that
            could be trained, that is the last block.
        n_features, n_classes : int
            The head's.
        """
        known = self._known[last.model, last.layer]
        if known is None:
            return None
        total = known.layers[last.layer].multiply_adds
        if known.layers[after.layer].multiply_adds < total:
            start, lower = _next(known, after.layer)
        else:
            start, lower = _last_block(known, last.layer)
        epoch = lower + _BACKWARD * (total - lower)
        return FineTuning(
            layer=known.network.alias(start) or start,
            multiply_adds=epoch,
            extractions=epoch / max(1, total),
            head_epochs=epoch / (_BACKWARD * n_features * n_classes),
        )


def _last_block(known: _Known, layer: str) -> tuple[str, int]:
    """Return the first layer of the last block below a layer, and the cost of all before it.

    What follows the last block of a network belongs to it, such as a convolution before the
    pooling; a layer within a block ends it.
    """
    names = list(known.layers)
    ends = [names.index(name) for name in known.network.blocks if name in known.layers]
    here = names.index(layer)
    below = [end for end in ends if end < here]
    if not any(end > here for end in ends) and here not in ends:
        below = below[:-1]
    if not below:
        return names[0], 0
    return _next(known, names[below[-1]])


def _next(known: _Known, layer: str) -> tuple[str, int]:
    """Return the layer after one, and the cost up to that one."""
    names = list(known.layers)
    return names[names.index(layer) + 1], known.layers[layer].multiply_adds


def _known(selection: FeatureSource) -> _Known | None:
    """Return the network that a layer is of, or None: features may come from elsewhere."""
    from bottleneck.bases.network import traced

    try:
        network = traced(find_model(selection.model))
        size = selection.adjustments.get("image_size") or network.image_size
        return _Known(network, network.sized(size, [selection.layer]))
    except BottleneckError:
        return None
