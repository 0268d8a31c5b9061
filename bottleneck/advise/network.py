"""The depth of cached layers in their network, and the cost of fine-tuning from them."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bottleneck.bases import find_model
from bottleneck.errors import BottleneckError
from bottleneck.records import FeatureSource

if TYPE_CHECKING:
    from bottleneck.bases.network import Network

__all__ = ["Depths", "FineTuning"]

_BACKWARD = 3
"""Cost of a forward and a backward pass, in forward passes."""


@dataclass(frozen=True)
class FineTuning:
    """Where fine-tuning starts, and its cost.

    Attributes
    ----------
    layer : str
        First layer to train.
    multiply_adds : int
        Multiply-adds of an epoch, for one image: once for frozen layers, three times for trained
        ones.
    extractions : float
        The same, as a multiple of extracting the image's features.
    head_epochs : float
        The same, as a multiple of one epoch of the head on cached features.
    """

    layer: str
    multiply_adds: int
    extractions: float
    head_epochs: float


class Depths:
    """The depths of layers in their network.

    Parameters
    ----------
    selections : sequence of FeatureSource
        The layers, all of one model. If the model is unknown, as with imported features, they are
        taken to be equally spaced in the given order.
    """

    def __init__(self, selections: Sequence[FeatureSource]) -> None:
        self._network, self._costs = _costs(selections)
        self._most = max(1, *(self._costs[each.layer] for each in selections))

    def in_order(self, selections: Sequence[FeatureSource]) -> list[FeatureSource]:
        """Return layers in the order of computation.

        Parameters
        ----------
        selections : sequence of FeatureSource
            Layers of the network, each once.

        Returns
        -------
        list of FeatureSource
            The same, sorted.

        Raises
        ------
        ValueError
            A layer is not in the network.
        """
        names = list(self._costs)
        return sorted(selections, key=lambda each: names.index(each.layer))

    def share(self, selection: FeatureSource) -> float:
        """Return the multiply-adds up to a layer as a fraction of those up to the deepest one.

        Parameters
        ----------
        selection : FeatureSource
            A layer of the network.

        Returns
        -------
        float
            Between 0 and 1.

        Raises
        ------
        KeyError
            The layer is not in the network.
        """
        return self._costs[selection.layer] / self._most

    def fine_tuning(
        self, last: FeatureSource, after: FeatureSource, n_features: int, n_classes: int
    ) -> FineTuning | None:
        """Return the cost of training everything after a layer; None for an unknown network.

        Parameters
        ----------
        last : FeatureSource
            The layer of the head.
        after : FeatureSource
            The last frozen layer. If it is `last`, or no weights follow it, the last block is
            trained.
        n_features, n_classes : int
            Sizes of the head.

        Returns
        -------
        FineTuning or None
        """
        if self._network is None:
            return None
        names, total = list(self._costs), self._costs[last.layer]
        if self._costs[after.layer] < total:
            first = names.index(after.layer) + 1
        else:
            first = self._start_of_last_block(self._network, names.index(last.layer))
        frozen = self._costs[names[first - 1]] if first else 0
        epoch = frozen + _BACKWARD * (total - frozen)
        return FineTuning(
            layer=self._network.alias(names[first]) or names[first],
            multiply_adds=epoch,
            extractions=epoch / max(1, total),
            head_epochs=epoch / (_BACKWARD * n_features * n_classes),
        )

    def _start_of_last_block(self, network: "Network", last: int) -> int:
        """Return the index of the first layer of the last block before the layer at an index.

        Layers after the last block of a network belong to it, such as a convolution before the
        pooling; a layer within a block ends the block.
        """
        ends = [place for place, name in enumerate(self._costs) if name in network.blocks]
        below = [end for end in ends if end < last]
        if below == ends:
            below = below[:-1]
        return below[-1] + 1 if below else 0


def _costs(selections: Sequence[FeatureSource]) -> "tuple[Network | None, dict[str, int]]":
    """Return the network, if known, and the multiply-adds up to each layer, in network order."""
    from bottleneck.bases.network import traced

    sizes = {each.layer: each.adjustments.get("image_size") for each in selections}
    with suppress(BottleneckError):
        network = traced(find_model(selections[0].model))
        known = [name for name in network.layers if name in sizes]
        if len(known) == len(sizes):
            layers = network.sized(sizes[known[-1]] or network.image_size, known)
            return network, {name: layer.multiply_adds for name, layer in layers.items()}
    return None, {layer: place for place, layer in enumerate(sizes, start=1)}
